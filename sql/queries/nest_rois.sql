-- nest_rois: each staged ROI with the ROI that it is a hole of, and what is left of it without its own holes.
--
-- Grain: one row per ROI of staged_roi.
-- Nested: an ROI within another of the same label is a hole of the smallest that contains it, one within a hole is
--     an island again, and so on. No label counts as one label. Of two equal outlines neither contains the other.
-- Explicit: only what the file marks is a hole. It is cut out of every ROI of its label that it overlaps; its parent
--     is the smallest of them that contains it, or else the one that it overlaps most; equal: the lesser name.
-- Islands: an ROI within a marked hole that is itself within an ROI of the label was drawn into the hole, which is not
--     cut out of it then; and a marked hole within such an island is not one of the ROI around the hole.
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

overlap AS (
    SELECT
        hole.roi_set,
        hole.slide,
        hole.roi_name AS hole_name,
        around.roi_name,
        around.outline_area,
        ST_Area(ST_Intersection(hole.outline, around.outline)) AS overlap_area,
        ST_Within(hole.outline, around.outline) AS is_within,
        around.outline_area < hole.outline_area AND ST_Within(around.outline, hole.outline) AS is_around,
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
),

island AS (
    SELECT
        overlap.roi_set,
        overlap.slide,
        overlap.hole_name,
        overlap.roi_name,
    FROM overlap
    SEMI JOIN overlap AS wide
        ON
            overlap.roi_set = wide.roi_set
            AND overlap.slide = wide.slide
            AND overlap.hole_name = wide.hole_name
            AND wide.is_within
    WHERE overlap.is_around
),

hole_in_island AS (
    SELECT DISTINCT
        island.roi_set,
        island.slide,
        inner_overlap.hole_name,
        outer_overlap.roi_name,
    FROM island
    INNER JOIN overlap AS inner_overlap
        ON
            island.roi_set = inner_overlap.roi_set
            AND island.slide = inner_overlap.slide
            AND island.roi_name = inner_overlap.roi_name
            AND inner_overlap.is_within
    INNER JOIN overlap AS outer_overlap
        ON
            island.roi_set = outer_overlap.roi_set
            AND island.slide = outer_overlap.slide
            AND island.hole_name = outer_overlap.hole_name
            AND outer_overlap.is_within
),

marked AS (
    SELECT overlap.*
    FROM overlap
    ANTI JOIN island
        ON
            overlap.roi_set = island.roi_set
            AND overlap.slide = island.slide
            AND overlap.hole_name = island.hole_name
            AND overlap.roi_name = island.roi_name
    ANTI JOIN hole_in_island
        ON
            overlap.roi_set = hole_in_island.roi_set
            AND overlap.slide = hole_in_island.slide
            AND overlap.hole_name = hole_in_island.hole_name
            AND overlap.roi_name = hole_in_island.roi_name
),

marked_parent AS (
    SELECT
        marked.roi_set,
        marked.slide,
        marked.hole_name,
        first(
            marked.roi_name
            ORDER BY
                CASE WHEN marked.is_within THEN 0 ELSE 1 END,
                CASE WHEN marked.is_within THEN marked.outline_area ELSE -marked.overlap_area END,
                marked.roi_name
        ) AS parent,
    FROM marked
    GROUP BY marked.roi_set, marked.slide, marked.hole_name
),

parented AS (
    SELECT
        measured.* EXCLUDE (outline_area, x_min, x_max, y_min, y_max),
        CASE
            WHEN measured.nested AND depth.depth % 2 = 1 THEN depth.container_name
            WHEN NOT measured.nested AND measured.marked_hole THEN marked_parent.parent
        END AS parent,
    FROM measured
    INNER JOIN depth
        ON
            measured.roi_set = depth.roi_set
            AND measured.slide = depth.slide
            AND measured.roi_name = depth.roi_name
    LEFT JOIN marked_parent
        ON
            measured.roi_set = marked_parent.roi_set
            AND measured.slide = marked_parent.slide
            AND measured.roi_name = marked_parent.hole_name
),

taken AS (
    SELECT
        parented.roi_set,
        parented.slide,
        parented.parent AS roi_name,
        parented.roi_name AS hole_name,
    FROM parented
    WHERE parented.nested AND parented.parent IS NOT NULL
    UNION ALL
    SELECT
        marked.roi_set,
        marked.slide,
        marked.roi_name,
        marked.hole_name,
    FROM marked
),

holes AS (
    SELECT
        taken.roi_set,
        taken.slide,
        taken.roi_name,
        ST_Union_Agg(measured.outline ORDER BY taken.hole_name) AS taken_out,
        string_agg(taken.hole_name, ', ' ORDER BY taken.hole_name) AS hole_names,
    FROM taken
    INNER JOIN measured
        ON
            taken.roi_set = measured.roi_set
            AND taken.slide = measured.slide
            AND taken.hole_name = measured.roi_name
    GROUP BY taken.roi_set, taken.slide, taken.roi_name
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
        AND parented.roi_name = holes.roi_name
