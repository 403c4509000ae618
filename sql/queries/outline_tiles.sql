-- outline_tiles: the tiles of one slide and grid with a label, as they are drawn over its picture.
--
-- Grain: one row per tile. left_x, top_y, side: base pixels; where tiles overlap, the part that is nearest to
--     the tile's centre, so that each place has one colour. Order: grid_y, grid_x.
SELECT
    labels.label,
    labels.base_x + (labels.extract_px - least(grid_slides.stride, labels.extract_px)) / 2 AS left_x,
    labels.base_y + (labels.extract_px - least(grid_slides.stride, labels.extract_px)) / 2 AS top_y,
    least(grid_slides.stride, labels.extract_px)::DOUBLE AS side,
FROM labels
INNER JOIN slides ON labels.slide = slides.slide
INNER JOIN grids ON labels.grid = grids.grid
INNER JOIN grid_slides ON grids.grid_id = grid_slides.grid_id AND slides.slide_id = grid_slides.slide_id
WHERE labels.slide = $slide AND labels.grid = $grid AND labels.label IS NOT NULL
ORDER BY labels.grid_y, labels.grid_x
