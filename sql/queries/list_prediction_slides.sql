-- list_prediction_slides: the slides that the grid $grid lies on, and whether the run $run has predicted them.
--
-- Grain: one row per slide of the grid, in the order of their names. A slide is predicted if all its tiles are.
WITH predicted AS (
    SELECT
        predictions.slide,
        count(*) AS n_tiles,
    FROM predictions
    WHERE predictions.run = $run AND predictions.grid = $grid
    GROUP BY predictions.slide
)

SELECT
    slides.slide,
    slides.path,
    coalesce(slides.background, 'FFFFFF') AS background,
    grids.tile_px,
    grid_slides.extract_px,
    grid_slides.stride,
    grid_slides.n_columns,
    grid_slides.n_rows,
    grid_slides.level,
    grid_slides.level_downsample,
    grid_slides.read_px,
    coalesce(predicted.n_tiles, 0) = grid_slides.n_columns::BIGINT * grid_slides.n_rows AS is_predicted,
FROM grid_slides
INNER JOIN grids ON grid_slides.grid_id = grids.grid_id
INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
LEFT JOIN predicted ON slides.slide = predicted.slide
WHERE grids.grid = $grid
ORDER BY slides.slide
