-- find_example_tile: the id of the first tile of the grid $grid, or of any grid where it is NULL.
--
-- Grain: one row, or none where there are no tiles.
SELECT
    make_tile_id(
        grid_on_slide.slide,
        tile_location(0, grid_on_slide.stride, grid_on_slide.extract_px, grid_on_slide.origin_x),
        tile_location(0, grid_on_slide.stride, grid_on_slide.extract_px, grid_on_slide.origin_y)
    ) AS tile_id,
FROM grid_on_slide
WHERE grid_on_slide.tiles > 0 AND ($grid::VARCHAR IS NULL OR grid_on_slide.grid = $grid)
ORDER BY grid_on_slide.grid, grid_on_slide.slide
LIMIT 1
