-- find_slide_grid: how the grid $grid lies on the slide $slide, base pixels.
--
-- Grain: one row, or none where the grid does not lie on the slide.
SELECT
    grid_slides.n_columns,
    grid_slides.n_rows,
    grid_slides.extract_px,
    grid_slides.stride,
    grids.origin_x,
    grids.origin_y,
FROM grid_slides
INNER JOIN grids ON grid_slides.grid_id = grids.grid_id
INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
WHERE grids.grid = $grid AND slides.slide = $slide
