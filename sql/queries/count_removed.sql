-- count_removed: what goes with the slides $slides.
--
-- Grain: one row. roi_files: files that gave ROIs to these slides alone.
WITH roi_file AS (
    SELECT
        rois.roi_file_id,
        count(*) FILTER (WHERE list_contains($slides, rois.slide)) AS removed,
        count(*) AS rois,
    FROM rois
    GROUP BY rois.roi_file_id
),

tile AS (
    SELECT coalesce(sum(grid_slides.n_columns::BIGINT * grid_slides.n_rows), 0)::BIGINT AS tiles,
    FROM grid_slides
    INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
    WHERE list_contains($slides, slides.slide)
),

prediction AS (
    SELECT count(*) AS predictions,
    FROM predictions
    WHERE list_contains($slides, predictions.slide)
)

SELECT
    coalesce(sum(roi_file.removed), 0)::BIGINT AS rois,
    count(*) FILTER (WHERE roi_file.removed = roi_file.rois) AS roi_files,
    any_value(tile.tiles) AS tiles,
    any_value(prediction.predictions) AS predictions,
FROM tile
CROSS JOIN prediction
LEFT JOIN roi_file ON true
