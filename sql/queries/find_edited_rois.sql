-- find_edited_rois: rows of a GeoParquet file whose geometry is not the outline without its holes.
--
-- Grain: one row per such row of nested_roi, where the set 'drawn' has what was drawn, with the holes that the file
--     marks, and 'left' the geometry of the rows that have an outline beside it. Order: row_no.
SELECT
    drawn.row_no,
    drawn.roi_name,
FROM nested_roi AS drawn
INNER JOIN nested_roi AS stored ON drawn.row_no = stored.row_no
WHERE
    drawn.roi_set = 'drawn'
    AND stored.roi_set = 'left'
    AND NOT ST_Equals(drawn.geom, stored.geom)
ORDER BY drawn.row_no
