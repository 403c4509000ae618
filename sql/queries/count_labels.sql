-- count_labels: what became of the tiles of each grid.
--
-- Grain: one row per grid and label; label NULL are the tiles without one. Order: grid, label.
SELECT
    labels.grid,
    labels.label,
    count(*) AS tiles,
    count(*) FILTER (WHERE labels.kept) AS kept,
    count(*) FILTER (WHERE labels.n_rois = 0) AS in_no_roi,
    count(*) FILTER (WHERE labels.n_rois > 1) AS in_several_rois,
    count(DISTINCT labels.slide) AS slides,
    count(DISTINCT labels.patient) AS patients,
FROM labels
GROUP BY labels.grid, labels.label
ORDER BY labels.grid, labels.label NULLS LAST
