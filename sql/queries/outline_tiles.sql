-- outline_tiles: the tiles of the slide $slide on the grid $grid, as they are drawn over its picture.
--
-- Grain: one row per tile, those that are not kept included. Order: grid_y, grid_x.
SELECT
    labels.grid_x,
    labels.grid_y,
    labels.kept,
    labels.label,
    labels.roi_name,
    labels.coverage,
FROM labels
WHERE labels.slide = $slide AND labels.grid = $grid
ORDER BY labels.grid_y, labels.grid_x
