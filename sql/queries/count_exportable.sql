-- count_exportable: what there is to export from a grid, for the message where a condition leaves nothing.
--
-- Grain: one row per label and split of the kept tiles. Order: label, split.
SELECT
    labels.label,
    labels.split,
    count(*) AS tiles,
FROM labels
WHERE labels.grid = $grid AND labels.kept
GROUP BY labels.label, labels.split
ORDER BY labels.label NULLS LAST, labels.split NULLS LAST
