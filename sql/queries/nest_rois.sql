-- nest_rois: each staged ROI with the ROI that it is a hole of, and what is left of it without its own holes.
--
-- Grain: one row per ROI of staged_roi.
-- Nested: an ROI within another of the same label is a hole of the smallest that contains it, one within a hole is
--     an island again, and so on. No label counts as one label. Of two equal outlines neither contains the other.
-- Explicit: only what the file marks is a hole. It is cut out of every ROI of its label that it overlaps; its parent
--     is the smallest of them that contains it, or else the one that it overlaps most; equal: the lesser name.
-- Islands: an ROI within a marked hole that is itself within an ROI of the label was drawn into the hole, which is not
--     cut out of it then; and a marked hole within such an island is not one of the ROI around the hole.
-- Cells: ROIs find each other by cells with a side of 2^level base pixels. The level of an ROI is the least at which it
--     is no longer than a cell, so that it touches four at most, and time grows with the ROIs, not with their square.
CREATE OR REPLACE TEMP TABLE nested_roi AS
WITH RECURSIVE measured AS MATERIALIZED (
    SELECT
        bounded.*,
        row_number() OVER (ORDER BY bounded.roi_set, bounded.slide, bounded.roi_name) AS roi_no,
        dense_rank() OVER (ORDER BY bounded.roi_set, bounded.slide, bounded.label) AS group_no,
        -- A logarithm that is rounded down would make the cell shorter than the ROI.
        ceil(log2(greatest(bounded.x_max - bounded.x_min, bounded.y_max - bounded.y_min, 1)) + 1e-9) AS own_level,
    FROM (
        SELECT
            staged_roi.*,
            ST_Area(staged_roi.outline) AS outline_area,
            ST_XMin(staged_roi.outline) AS x_min,
            ST_XMax(staged_roi.outline) AS x_max,
            ST_YMin(staged_roi.outline) AS y_min,
            ST_YMax(staged_roi.outline) AS y_max,
        FROM staged_roi
    ) AS bounded
),

-- Every ROI at its own level, in whose cells any that it contains has its corner.
celled AS MATERIALIZED (
    SELECT
        columned.*,
        unnest(list_distinct([
            floor(columned.y_min / pow(2, columned.own_level)), floor(columned.y_max / pow(2, columned.own_level))
        ])) AS cell_y,
    FROM (
        SELECT
            measured.roi_no,
            measured.group_no,
            measured.own_level,
            measured.nested,
            measured.marked_hole,
            measured.outline_area,
            measured.x_min,
            measured.x_max,
            measured.y_min,
            measured.y_max,
            unnest(list_distinct([
                floor(measured.x_min / pow(2, measured.own_level)), floor(measured.x_max / pow(2, measured.own_level))
            ])) AS cell_x,
        FROM measured
    ) AS columned
),

-- Those of a cell in the order of their areas, and of their names where these are equal.
shelf AS MATERIALIZED (
    SELECT
        celled.*,
        row_number() OVER (
            PARTITION BY celled.group_no, celled.own_level, celled.cell_x, celled.cell_y
            ORDER BY celled.outline_area, celled.roi_no
        ) AS place,
    FROM celled
    WHERE celled.nested
),

group_level AS (
    SELECT DISTINCT
        measured.group_no,
        measured.own_level AS level,
    FROM measured
),

-- The cells that hold what is around an ROI, one at each level.
asked AS (
    SELECT
        measured.roi_no,
        measured.group_no,
        measured.outline_area,
        group_level.level,
        floor(measured.x_min / pow(2, group_level.level)) AS cell_x,
        floor(measured.y_min / pow(2, group_level.level)) AS cell_y,
        false AS is_shelf,
    FROM measured
    INNER JOIN group_level ON measured.group_no = group_level.group_no AND measured.own_level <= group_level.level
    WHERE measured.nested
),

-- The search begins behind those that are no larger.
begun AS (
    SELECT
        mixed.*,
        1 + count(*) FILTER (WHERE mixed.is_shelf) OVER (
            PARTITION BY mixed.group_no, mixed.level, mixed.cell_x, mixed.cell_y
            ORDER BY mixed.outline_area
            RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS from_place,
    FROM (
        FROM asked
        UNION ALL BY NAME
        SELECT
            shelf.roi_no,
            shelf.group_no,
            shelf.outline_area,
            shelf.own_level AS level,
            shelf.cell_x,
            shelf.cell_y,
            true AS is_shelf,
        FROM shelf
    ) AS mixed
),

-- From the smallest on, so that most searches end at once; ever more at a time, so that all end soon.
search AS (
    SELECT
        begun.roi_no,
        begun.group_no,
        begun.level,
        begun.cell_x,
        begun.cell_y,
        begun.from_place,
        4 AS n_places,
        NULL::BIGINT AS found_place,
    FROM begun
    WHERE NOT begun.is_shelf
    UNION ALL
    SELECT
        looked.roi_no,
        looked.group_no,
        looked.level,
        looked.cell_x,
        looked.cell_y,
        looked.from_place + looked.n_places AS from_place,
        looked.n_places * 4 AS n_places,
        min(
            CASE
                WHEN
                    inside.x_min >= shelf.x_min
                    AND inside.x_max <= shelf.x_max
                    AND inside.y_min >= shelf.y_min
                    AND inside.y_max <= shelf.y_max
                    THEN CASE WHEN ST_Within(inside.outline, around.outline) THEN shelf.place END
            END
        ) AS found_place,
    FROM (
        SELECT
            search.*,
            unnest(range(search.from_place, search.from_place + search.n_places)) AS place,
        FROM search
        WHERE search.found_place IS NULL
    ) AS looked
    INNER JOIN shelf
        ON
            looked.group_no = shelf.group_no
            AND looked.level = shelf.own_level
            AND looked.cell_x = shelf.cell_x
            AND looked.cell_y = shelf.cell_y
            AND looked.place = shelf.place
    INNER JOIN measured AS inside ON looked.roi_no = inside.roi_no
    INNER JOIN measured AS around ON shelf.roi_no = around.roi_no
    GROUP BY
        looked.roi_no,
        looked.group_no,
        looked.level,
        looked.cell_x,
        looked.cell_y,
        looked.from_place,
        looked.n_places
),

container AS MATERIALIZED (
    SELECT
        search.roi_no,
        first(shelf.roi_no ORDER BY shelf.outline_area, shelf.roi_no) AS container_no,
    FROM search
    INNER JOIN shelf
        ON
            search.group_no = shelf.group_no
            AND search.level = shelf.own_level
            AND search.cell_x = shelf.cell_x
            AND search.cell_y = shelf.cell_y
            AND search.found_place = shelf.place
    GROUP BY search.roi_no
),

-- How many are around each, by twice as many steps outwards in each round.
climb AS (
    SELECT
        measured.roi_no,
        container.container_no AS above_no,
        CASE WHEN container.container_no IS NULL THEN 0 ELSE 1 END AS depth,
        0 AS round_no,
    FROM measured
    LEFT JOIN container ON measured.roi_no = container.roi_no
    UNION ALL
    SELECT
        below.roi_no,
        above.above_no,
        below.depth + coalesce(above.depth, 0) AS depth,
        below.round_no + 1 AS round_no,
    FROM climb AS below
    LEFT JOIN climb AS above ON below.above_no = above.roi_no
    WHERE pow(2, below.round_no) <= (SELECT count(*) FROM container)
),

depth AS (
    SELECT
        climb.roi_no,
        max(climb.depth) AS depth,
    FROM climb
    GROUP BY climb.roi_no
),

-- At each level of its group that is not below its own, the cells that an ROI touches.
spread AS (
    SELECT
        columned.*,
        unnest(list_distinct([
            floor(columned.y_min / pow(2, columned.level)), floor(columned.y_max / pow(2, columned.level))
        ])) AS cell_y,
    FROM (
        SELECT
            measured.roi_no,
            measured.group_no,
            measured.marked_hole,
            measured.own_level,
            measured.x_min,
            measured.x_max,
            measured.y_min,
            measured.y_max,
            group_level.level,
            unnest(list_distinct([
                floor(measured.x_min / pow(2, group_level.level)), floor(measured.x_max / pow(2, group_level.level))
            ])) AS cell_x,
        FROM measured
        INNER JOIN group_level ON measured.group_no = group_level.group_no AND measured.own_level <= group_level.level
        SEMI JOIN measured AS hole ON measured.group_no = hole.group_no AND hole.marked_hole AND NOT hole.nested
        WHERE NOT measured.nested
    ) AS columned
),

-- Two ROIs share a cell at the level of the longer one.
near AS (
    SELECT DISTINCT
        hole.roi_no AS hole_no,
        around.roi_no,
    FROM spread AS hole
    INNER JOIN spread AS around
        ON
            hole.group_no = around.group_no
            AND hole.level = around.level
            AND hole.cell_x = around.cell_x
            AND hole.cell_y = around.cell_y
            AND hole.level = greatest(hole.own_level, around.own_level)
            AND hole.x_min < around.x_max
            AND hole.x_max > around.x_min
            AND hole.y_min < around.y_max
            AND hole.y_max > around.y_min
    WHERE hole.marked_hole AND NOT around.marked_hole
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
    FROM near
    INNER JOIN measured AS hole ON near.hole_no = hole.roi_no
    INNER JOIN measured AS around ON near.roi_no = around.roi_no
    WHERE ST_Area(ST_Intersection(hole.outline, around.outline)) > 0
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
        measured.* EXCLUDE (outline_area, x_min, x_max, y_min, y_max, roi_no, group_no, own_level),
        CASE
            WHEN measured.nested AND depth.depth % 2 = 1 THEN around.roi_name
            WHEN NOT measured.nested AND measured.marked_hole THEN marked_parent.parent
        END AS parent,
    FROM measured
    INNER JOIN depth ON measured.roi_no = depth.roi_no
    LEFT JOIN container ON measured.roi_no = container.roi_no
    LEFT JOIN measured AS around ON container.container_no = around.roi_no
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
