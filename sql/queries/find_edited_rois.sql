-- find_edited_rois: rows of a GeoParquet file whose geometry is not the outline without its holes.
--
-- Grain: one row per such row of the relation stored_roi (row_no, slide, roi_name, parent, geometry, outline), whose
--     outline is null where it is the geometry. Order: row_no.
WITH shape AS (
    SELECT
        stored_roi.row_no,
        stored_roi.slide,
        stored_roi.roi_name,
        stored_roi.parent,
        stored_roi.outline IS NOT NULL AS has_outline,
        ST_MakeValid(ST_GeomFromWKB(stored_roi.geometry)) AS geom,
        ST_MakeValid(ST_GeomFromWKB(coalesce(stored_roi.outline, stored_roi.geometry))) AS drawn,
    FROM stored_roi
    WHERE stored_roi.geometry IS NOT NULL
),

hole AS (
    SELECT
        shape.slide,
        shape.parent,
        ST_Union_Agg(shape.drawn ORDER BY shape.roi_name) AS taken_out,
    FROM shape
    WHERE shape.parent <> ''
    GROUP BY shape.slide, shape.parent
)

SELECT
    shape.row_no,
    shape.roi_name,
FROM shape
LEFT JOIN hole ON shape.slide = hole.slide AND shape.roi_name = hole.parent
WHERE
    shape.has_outline
    AND NOT ST_Equals(
        shape.geom,
        CASE WHEN hole.taken_out IS NULL THEN shape.drawn ELSE ST_Difference(shape.drawn, hole.taken_out) END
    )
ORDER BY shape.row_no
