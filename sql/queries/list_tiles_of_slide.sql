-- list_tiles_of_slide: every tile of the grid $grid on the slide $slide, whether it has a label or not.
--
-- Grain: one row per tile, in the order of grid_y, grid_x. loc_x and loc_y are its centre,
--     base_x and base_y its top left corner, base pixels.
SELECT
    make_tile_id(
        slides.slide,
        tile_location(tiles.grid_x, grid_slides.stride, grid_slides.extract_px, grids.origin_x),
        tile_location(tiles.grid_y, grid_slides.stride, grid_slides.extract_px, grids.origin_y)
    ) AS tile_id,
    tile_location(tiles.grid_x, grid_slides.stride, grid_slides.extract_px, grids.origin_x) AS loc_x,
    tile_location(tiles.grid_y, grid_slides.stride, grid_slides.extract_px, grids.origin_y) AS loc_y,
    tiles.grid_x,
    tiles.grid_y,
    tile_origin(tiles.grid_x, grid_slides.stride, grids.origin_x) AS base_x,
    tile_origin(tiles.grid_y, grid_slides.stride, grids.origin_y) AS base_y,
FROM tiles
INNER JOIN grids ON tiles.grid_id = grids.grid_id
INNER JOIN slides ON tiles.slide_id = slides.slide_id
INNER JOIN grid_slides ON tiles.grid_id = grid_slides.grid_id AND tiles.slide_id = grid_slides.slide_id
WHERE grids.grid = $grid AND slides.slide = $slide
ORDER BY tiles.grid_y, tiles.grid_x
