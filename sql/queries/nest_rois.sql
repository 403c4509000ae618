-- nest_rois: each staged ROI with the ROI that it is a hole of, and what is left of it without its own holes.
--
-- Grain: one row per ROI of staged_roi.
-- Nested: an ROI within another of the same label is a hole of the smallest that contains it, one within a hole is
--     an island again, and so on. No label counts as one label. Of two equal outlines neither contains the other.
-- Explicit: only what the file marks is a hole, of the smallest ROI of its label that contains it, or else of the
--     one that it overlaps most.
CREATE OR REPLACE TEMP TABLE nested_roi AS
WITH RECURSIVE measured AS (
    SELECT
        staged_roi.*,
        ST_Area(staged_roi.outline) AS outline_area,
        ST_XMin(staged_roi.outline) AS x_min,
        ST_XMax(staged_roi.outline) AS x_max,
        ST_YMin(staged_roi.outline) AS y_min,
        ST_YMax(staged_roi.outline) AS y_max,
    FROM staged_roi
),

container AS (
    SELECT
        inside.roi_set,
        inside.slide,
        inside.roi_name,
        first(around.roi_name ORDER BY around.outline_area, around.roi_name) AS container_name,
    FROM measured AS inside
    INNER JOIN measured AS around
        ON
            inside.roi_set = around.roi_set
            AND inside.slide = around.slide
            AND inside.label IS NOT DISTINCT FROM around.label
            AND inside.outline_area < around.outline_area
            AND inside.x_min >= around.x_min
            AND inside.x_max <= around.x_max
            AND inside.y_min >= around.y_min
            AND inside.y_max <= around.y_max
    WHERE inside.nested AND around.nested AND ST_Within(inside.outline, around.outline)
    GROUP BY inside.roi_set, inside.slide, inside.roi_name
),

depth AS (
    SELECT
        measured.roi_set,
        measured.slide,
        measured.roi_name,
        NULL::VARCHAR AS container_name,
        0 AS depth,
    FROM measured
    ANTI JOIN container
        ON
            measured.roi_set = container.roi_set
            AND measured.slide = container.slide
            AND measured.roi_name = container.roi_name
    UNION ALL
    SELECT
        container.roi_set,
        container.slide,
        container.roi_name,
        container.container_name,
        depth.depth + 1 AS depth,
    FROM container
    INNER JOIN depth
        ON
            container.roi_set = depth.roi_set
            AND container.slide = depth.slide
            AND container.container_name = depth.roi_name
),

marked AS (
    SELECT
        hole.roi_set,
        hole.slide,
        hole.roi_name,
        first(
            around.roi_name
            ORDER BY
                CASE WHEN ST_Within(hole.outline, around.outline) THEN 0 ELSE 1 END,
                CASE
                    WHEN ST_Within(hole.outline, around.outline) THEN around.outline_area
                    ELSE -ST_Area(ST_Intersection(hole.outline, around.outline))
                END,
                around.roi_name
        ) AS parent,
    FROM measured AS hole
    INNER JOIN measured AS around
        ON
            hole.roi_set = around.roi_set
            AND hole.slide = around.slide
            AND hole.label IS NOT DISTINCT FROM around.label
            AND hole.x_min < around.x_max
            AND hole.x_max > around.x_min
            AND hole.y_min < around.y_max
            AND hole.y_max > around.y_min
    WHERE
        hole.marked_hole
        AND NOT hole.nested
        AND NOT around.marked_hole
        AND NOT around.nested
        AND ST_Area(ST_Intersection(hole.outline, around.outline)) > 0
    GROUP BY hole.roi_set, hole.slide, hole.roi_name
),

parented AS (
    SELECT
        measured.* EXCLUDE (outline_area, x_min, x_max, y_min, y_max),
        CASE
            WHEN measured.nested AND depth.depth % 2 = 1 THEN depth.container_name
            WHEN NOT measured.nested AND measured.marked_hole THEN marked.parent
        END AS parent,
    FROM measured
    INNER JOIN depth
        ON
            measured.roi_set = depth.roi_set
            AND measured.slide = depth.slide
            AND measured.roi_name = depth.roi_name
    LEFT JOIN marked
        ON
            measured.roi_set = marked.roi_set
            AND measured.slide = marked.slide
            AND measured.roi_name = marked.roi_name
),

holes AS (
    SELECT
        parented.roi_set,
        parented.slide,
        parented.parent,
        ST_Union_Agg(parented.outline ORDER BY parented.roi_name) AS taken_out,
        string_agg(parented.roi_name, ', ' ORDER BY parented.roi_name) AS hole_names,
    FROM parented
    WHERE parented.parent IS NOT NULL
    GROUP BY parented.roi_set, parented.slide, parented.parent
)

SELECT
    parented.*,
    CASE
        WHEN holes.taken_out IS NULL THEN parented.outline
        ELSE ST_Normalize(ST_CollectionExtract(ST_Difference(parented.outline, holes.taken_out), 3))
    END AS geom,
    CASE
        WHEN holes.taken_out IS NULL THEN parented.roi_name
        ELSE parented.roi_name || ' (holes: ' || holes.hole_names || ')'
    END AS roi_desc,
FROM parented
LEFT JOIN holes
    ON
        parented.roi_set = holes.roi_set
        AND parented.slide = holes.slide
        AND parented.roi_name = holes.parent
