-- count_split: labelled tiles, slides and patients on each side of the split.
--
-- Grain: one row per grid, split, fold and label; label NULL sums over the labels. Order: the same.
SELECT
    labels.grid,
    labels.split,
    labels.fold,
    labels.label,
    count(*) AS tiles,
    count(DISTINCT labels.slide) AS slides,
    count(DISTINCT labels.patient) AS patients,
FROM labels
WHERE labels.label IS NOT NULL AND labels.split IS NOT NULL
GROUP BY
    GROUPING SETS (
        (labels.grid, labels.split, labels.fold, labels.label), (labels.grid, labels.split, labels.fold)
    )
ORDER BY labels.grid, labels.split, labels.fold, labels.label NULLS LAST
