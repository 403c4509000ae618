-- measured_tile: what is measured of tiles, with the name of the slide.
--
-- Grain: one row per tile of tile_qc.
-- slide stands beside slide_id so that a filter of the view labels by the slide's name reaches tile_qc.
CREATE OR REPLACE VIEW measured_tile AS
SELECT
    tile_qc.grid_id,
    tile_qc.slide_id,
    slides.slide,
    tile_qc.grid_x,
    tile_qc.grid_y,
    tile_qc.brightness,
    tile_qc.saturation,
    tile_qc.white_fraction,
    tile_qc.grey_fraction,
    tile_qc.blur,
    tile_qc.tissue,
    tile_qc.pen,
FROM tile_qc
INNER JOIN slides ON tile_qc.slide_id = slides.slide_id;
COMMENT ON VIEW measured_tile IS 'What is measured of tiles, with the name of the slide.';
COMMENT ON COLUMN measured_tile.grid_id IS 'The grid.';
COMMENT ON COLUMN measured_tile.slide_id IS 'The slide.';
COMMENT ON COLUMN measured_tile.slide IS 'Name of the slide.';
COMMENT ON COLUMN measured_tile.grid_x IS 'Column of the tile.';
COMMENT ON COLUMN measured_tile.grid_y IS 'Row of the tile.';
COMMENT ON COLUMN measured_tile.brightness IS 'Mean of red, green and blue, 0 to 255.';
COMMENT ON COLUMN measured_tile.saturation IS 'Mean saturation (HSV), 0 to 1.';
COMMENT ON COLUMN measured_tile.white_fraction IS 'Part of the pixels whose mean is above 230.';
COMMENT ON COLUMN measured_tile.grey_fraction IS 'Part of the pixels with a saturation below 0.05.';
COMMENT ON COLUMN measured_tile.blur IS 'Variance of the Laplacian, low where blurred or empty.';
COMMENT ON COLUMN measured_tile.tissue IS 'Part of the tile in the mask of tissue, 0 to 1.';
COMMENT ON COLUMN measured_tile.pen IS 'Part of the pixels with a colour of ink.';
