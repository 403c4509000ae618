-- insert_tiles: every tile of the grid $grid_id on the slides $slide_ids.
--
-- Grain: one row per tile that lies wholly inside its slide.
-- Order: slide name, grid_y, grid_x, so that the table compresses well and scans in the contract's order.
INSERT INTO tiles
SELECT
    grid_slides.grid_id,
    grid_slides.slide_id,
    grid_column.range::INTEGER AS grid_x,
    grid_row.range::INTEGER AS grid_y,
FROM grid_slides
INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
CROSS JOIN LATERAL range(grid_slides.n_rows) AS grid_row
CROSS JOIN LATERAL range(grid_slides.n_columns) AS grid_column
WHERE grid_slides.grid_id = $grid_id AND list_contains($slide_ids, grid_slides.slide_id)
ORDER BY slides.slide, grid_y, grid_x
