-- find_tile: the grids that have the tile of the id $tile; only $grid, where it is not NULL.
--
-- Grain: one row per grid. Order: grid.
SELECT labels.grid,
FROM labels
WHERE
    labels.slide = slide_of_tile($tile)
    AND labels.tile_id = $tile
    AND ($grid::VARCHAR IS NULL OR labels.grid = $grid)
ORDER BY labels.grid
