-- features: the table features_$width, which holds the features of $width numbers a tile.
-- noqa: disable=RF05
--
-- $width is filled in when the table is made: a column of arrays has one size, so that DuckDB's functions of arrays
-- (array_cosine_similarity, array_distance) and its indexes take it as it is. Networks of one width share a table.
CREATE TABLE IF NOT EXISTS features_$width (
    run VARCHAR NOT NULL,
    grid VARCHAR NOT NULL,
    slide VARCHAR NOT NULL,
    tile_id VARCHAR NOT NULL,
    loc_x INTEGER NOT NULL,
    loc_y INTEGER NOT NULL,
    grid_x INTEGER NOT NULL,
    grid_y INTEGER NOT NULL,
    feature FLOAT [$width] NOT NULL
);
COMMENT ON TABLE features_$width IS
'One row per run, grid and tile whose features were computed; a slide is whole or absent.';
COMMENT ON COLUMN features_$width.run IS 'The run whose network it is.';
COMMENT ON COLUMN features_$width.grid IS 'Name of the grid.';
COMMENT ON COLUMN features_$width.slide IS 'Name of the slide.';
COMMENT ON COLUMN features_$width.tile_id IS 'The tile, as in the view labels.';
COMMENT ON COLUMN features_$width.loc_x IS 'Centre of the tile, rounded down, base pixels.';
COMMENT ON COLUMN features_$width.loc_y IS 'Centre of the tile, rounded down, base pixels.';
COMMENT ON COLUMN features_$width.grid_x IS 'Column of the tile.';
COMMENT ON COLUMN features_$width.grid_y IS 'Row of the tile.';
COMMENT ON COLUMN features_$width.feature IS 'What the last linear layer of the network is given.';
