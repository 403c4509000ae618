-- stage_rois: the ROIs of the files being added, repaired ring by ring where their drawing is not valid.
--
-- Grain: one row per ROI of the relation incoming_roi (file, row_no, place, roi_set, slide, roi_name, label,
--     marked_hole, nested, traced, wkb). What was traced from pixels is valid, which takes long to tell of many parts.
-- Repair: each ring is made valid by itself, and its polygons are kept: points and lines that this leaves have no area
--     and label nothing. A polygon is its outer ring less the union of its inner rings, and a drawing the union of its
--     polygons. ST_MakeValid of a whole drawing would fill a hole that touches the outline, add what of a hole leaves
--     it, and cut out where polygons overlap: it counts how many rings are around a point.
-- changed_area: what the outline has more than the rings as drawn, the inner ones subtracted, square base pixels.
-- flat_rings: rings without an area, which are left out.
-- Normalised, so that the direction and the first point of a drawing do not matter.
CREATE OR REPLACE TEMP TABLE staged_roi AS
WITH drawn AS (
    SELECT
        incoming_roi.* EXCLUDE (wkb, traced),
        row_number() OVER () AS drawing_no,
        ST_GeomFromWKB(incoming_roi.wkb) AS drawing,
        NOT incoming_roi.traced AND NOT ST_IsValid(ST_GeomFromWKB(incoming_roi.wkb)) AS repaired,
    FROM incoming_roi
),

part AS (
    SELECT
        broken.drawing_no,
        generate_subscripts(broken.parts, 1) AS part_no,
        unnest(broken.parts).geom AS part,
    FROM (
        SELECT
            drawn.drawing_no,
            ST_Dump(drawn.drawing) AS parts,
        FROM drawn
        WHERE drawn.repaired
    ) AS broken
),

ring AS (
    SELECT
        part.drawing_no,
        part.part_no,
        0 AS ring_no,
        ST_ExteriorRing(part.part) AS ring,
    FROM part
    UNION ALL
    SELECT
        part.drawing_no,
        part.part_no,
        inner_ring.ring_no,
        ST_InteriorRingN(part.part, inner_ring.ring_no::INTEGER) AS ring,
    FROM part
    CROSS JOIN unnest(range(1, ST_NumInteriorRings(part.part) + 1)) AS inner_ring (ring_no)
),

area AS (
    SELECT
        ring.* EXCLUDE (ring),
        ST_CollectionExtract(ST_MakeValid(ST_MakePolygon(ring.ring)), 3) AS area,
    FROM ring
),

polygon AS (
    SELECT
        area.drawing_no,
        area.part_no,
        any_value(area.area) FILTER (WHERE area.ring_no = 0) AS around,
        ST_Union_Agg(area.area ORDER BY area.ring_no) FILTER (WHERE area.ring_no > 0) AS taken_out,
        count(*) FILTER (WHERE ST_IsEmpty(area.area)) AS flat_rings,
    FROM area
    GROUP BY area.drawing_no, area.part_no
),

mended AS (
    SELECT
        polygon.drawing_no,
        ST_CollectionExtract(
            ST_Union_Agg(
                CASE
                    WHEN polygon.taken_out IS NULL THEN polygon.around
                    ELSE ST_Difference(polygon.around, polygon.taken_out)
                END
                ORDER BY polygon.part_no
            ),
            3
        ) AS outline,
        sum(polygon.flat_rings)::BIGINT AS flat_rings,
    FROM polygon
    GROUP BY polygon.drawing_no
)

SELECT
    drawn.* EXCLUDE (drawing_no, drawing),
    ST_Normalize(coalesce(mended.outline, drawn.drawing)) AS outline,
    coalesce(ST_Area(mended.outline) - ST_Area(drawn.drawing), 0) AS changed_area,
    coalesce(mended.flat_rings, 0) AS flat_rings,
FROM drawn
LEFT JOIN mended ON drawn.drawing_no = mended.drawing_no
