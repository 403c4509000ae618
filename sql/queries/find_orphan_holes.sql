-- find_orphan_holes: the marked holes of nested_roi that overlap no ROI of their label.
--
-- Grain: one row per such hole, with the ROI of another label that it overlaps most, if it overlaps any; equal: the
--     lesser name. Of more than a hundred, the first have it.
-- Order: file, row.
SELECT
    coalesce(hole.place, hole.file) AS place,
    hole.roi_name,
    hole.label,
    first(
        around.roi_name
        ORDER BY -ST_Area(ST_Intersection(hole.outline, around.outline)), around.roi_name
    ) AS other_name,
    first(
        around.label
        ORDER BY -ST_Area(ST_Intersection(hole.outline, around.outline)), around.roi_name
    ) AS other_label,
FROM (
    SELECT
        nested_roi.*,
        row_number() OVER (ORDER BY nested_roi.file, nested_roi.row_no, nested_roi.roi_name) AS orphan_no,
    FROM nested_roi
    WHERE nested_roi.marked_hole AND NOT nested_roi.nested AND nested_roi.parent IS NULL
) AS hole
LEFT JOIN nested_roi AS around
    ON
        hole.roi_set = around.roi_set
        AND hole.slide = around.slide
        AND NOT around.marked_hole
        AND hole.orphan_no <= 100
        AND ST_Intersects(hole.outline, around.outline)
        AND around.label IS DISTINCT FROM hole.label
GROUP BY hole.file, hole.row_no, hole.place, hole.roi_name, hole.label
ORDER BY hole.file, hole.row_no, hole.roi_name
