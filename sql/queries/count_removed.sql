-- count_removed: what goes with the slides $slides.
--
-- Grain: one row. roi_files: files that speak of these slides alone. predictions: of tiles, by whichever run.
WITH roi AS (
    SELECT count(*) AS rois,
    FROM rois
    WHERE list_contains($slides, rois.slide)
),

roi_file AS (
    SELECT count(*) AS roi_files,
    FROM (
        SELECT roi_file_slides.roi_file_id
        FROM roi_file_slides
        GROUP BY roi_file_slides.roi_file_id
        HAVING bool_and(list_contains($slides, roi_file_slides.slide))
    ) AS gone
),

tile AS (
    SELECT coalesce(sum(grid_slides.n_columns::BIGINT * grid_slides.n_rows), 0)::BIGINT AS tiles,
    FROM grid_slides
    INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
    WHERE list_contains($slides, slides.slide)
),

prediction AS (
    SELECT count(*) AS predictions,
    FROM (
        SELECT predictions.tile_id
        FROM predictions
        WHERE list_contains($slides, predictions.slide)
        UNION ALL
        SELECT predicted_numbers.tile_id
        FROM predicted_numbers
        WHERE list_contains($slides, predicted_numbers.slide)
        GROUP BY predicted_numbers.run, predicted_numbers.grid, predicted_numbers.tile_id
    ) AS predicted
)

SELECT
    roi.rois,
    roi_file.roi_files,
    tile.tiles,
    prediction.predictions,
FROM roi
CROSS JOIN roi_file
CROSS JOIN tile
CROSS JOIN prediction
