-- stage_verified_tiles: tiles of the slide $slide_id and the grid $grid_id that are compared with the plain join.
--
-- Grain: one row per tile, with its square and its centre in base pixels.
-- $places: places of tiles in the grid, counted along its rows from 0; NULL for every tile.
CREATE OR REPLACE TEMP TABLE verified_tile AS
WITH place AS (
    SELECT unnest($places::BIGINT []) AS place,
),

tile AS (
    SELECT
        tiles.grid_x,
        tiles.grid_y,
        tiles.grid_y::BIGINT * grid_slides.n_columns + tiles.grid_x AS place,
        grid_slides.extract_px::DOUBLE AS side,
        tile_origin(tiles.grid_x, grid_slides.stride, grids.origin_x) AS left_x,
        tile_origin(tiles.grid_y, grid_slides.stride, grids.origin_y) AS top_y,
        ST_Point(
            tile_centre(tiles.grid_x, grid_slides.stride, grid_slides.extract_px, grids.origin_x),
            tile_centre(tiles.grid_y, grid_slides.stride, grid_slides.extract_px, grids.origin_y)
        ) AS centre_point,
    FROM tiles
    INNER JOIN grids ON tiles.grid_id = grids.grid_id
    INNER JOIN grid_slides ON tiles.grid_id = grid_slides.grid_id AND tiles.slide_id = grid_slides.slide_id
    WHERE tiles.grid_id = $grid_id AND tiles.slide_id = $slide_id
)

SELECT
    tile.grid_x,
    tile.grid_y,
    tile.side,
    tile.centre_point,
    ST_MakeEnvelope(tile.left_x, tile.top_y, tile.left_x + tile.side, tile.top_y + tile.side) AS square,
FROM tile
WHERE $places::BIGINT [] IS NULL OR tile.place IN (SELECT place.place FROM place)
