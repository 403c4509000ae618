-- insert_tiles: every tile of the grid $grid_id on the slides $slide_ids.
--
-- Grain: one row per tile that lies wholly inside its slide.
-- Order: slide name, grid_y, grid_x, so that the table compresses well and scans in the contract's order. The rows are
--     made in it: sorting them took twice as long.
INSERT INTO tiles
SELECT
    grid_row.grid_id,
    grid_row.slide_id,
    unnest(range(grid_row.n_columns))::INTEGER AS grid_x,
    grid_row.grid_y,
FROM (
    SELECT
        laid.*,
        unnest(range(laid.n_rows))::INTEGER AS grid_y,
    FROM (
        SELECT
            grid_slides.grid_id,
            grid_slides.slide_id,
            grid_slides.n_columns,
            grid_slides.n_rows,
        FROM grid_slides
        INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
        WHERE grid_slides.grid_id = $grid_id AND list_contains($slide_ids, grid_slides.slide_id)
        ORDER BY slides.slide
    ) AS laid
) AS grid_row
