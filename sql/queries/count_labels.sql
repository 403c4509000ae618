-- count_labels: what became of the tiles of each grid, as the last labelling counted them.
--
-- Grain: one row per grid and label; label NULL are the tiles without one. Order: grid, label.
SELECT
    grids.grid,
    label_counts.label,
    sum(label_counts.tiles)::BIGINT AS tiles,
    sum(label_counts.kept)::BIGINT AS kept,
    sum(label_counts.in_no_roi)::BIGINT AS in_no_roi,
    sum(label_counts.in_several_rois)::BIGINT AS in_several_rois,
    count(DISTINCT label_counts.slide_id) AS slides,
    count(DISTINCT coalesce(patients.patient, slides.slide)) AS patients,
FROM label_counts
INNER JOIN grids ON label_counts.grid_id = grids.grid_id
INNER JOIN slides ON label_counts.slide_id = slides.slide_id
LEFT JOIN patients ON slides.slide = patients.slide
GROUP BY grids.grid, label_counts.label
ORDER BY grids.grid, label_counts.label NULLS LAST
