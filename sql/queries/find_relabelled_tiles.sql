-- find_relabelled_tiles: tiles whose label is another than in the table label_before.
--
-- Grain: one row per slide and ROIs that win such tiles, before and after, with their number. Order: slide, names.
SELECT
    labels.slide,
    label_before.roi_name AS roi_before,
    labels.roi_name AS roi_after,
    count(*) AS tiles,
FROM labels
INNER JOIN label_before ON labels.grid = label_before.grid AND labels.tile_id = label_before.tile_id
WHERE labels.label IS DISTINCT FROM label_before.label OR labels.kept IS DISTINCT FROM label_before.kept
GROUP BY ALL
ORDER BY ALL
