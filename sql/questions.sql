-- questions: what is asked of labels with arguments, as table macros: FROM neighbours('A12-384-640', distance := 2).
--
-- Labels are those of the view labels unless a macro says otherwise. A macro reads every grid of the study, and says
-- which in the column grid, unless grid := 'NAME' is given. They check nothing: a name that is not there has no rows.
-- noqa: disable=CP05

-- The name of the slide that the id of a tile begins with; names may hold dashes, the two numbers after them not.
CREATE OR REPLACE MACRO slide_of_tile(tile_id) AS regexp_extract(tile_id, '^(.*)-[0-9]+-[0-9]+$', 1);

-- tile_counts: tiles, and their area, by the columns that the list names: FROM tile_counts(['label', 'site']).
--
-- Grain: one row per combination of values of those columns that tiles have. Order: by them, as `source` has them.
-- source: a view or table with a row per grid, slide, label and whatever else tiles are told apart by. The view
--     counts, which is what is read unless another is named, has grid, slide, patient, site, split, fold and label.
-- Sums of areas are in the order of slides, so that their last digits never change.
CREATE OR REPLACE MACRO tile_counts(columns_, source := 'counts', grid := NULL) AS TABLE
    SELECT
        COLUMNS(LAMBDA name: list_contains(columns_, name)),
        sum(counted.tiles)::BIGINT AS tiles,
        sum(counted.kept)::BIGINT AS kept,
        sum(counted.area_mm2 ORDER BY counted.slide, counted.label) AS area_mm2,
    FROM query_table(source) AS counted
    WHERE grid IS NULL OR counted.grid = grid
    GROUP BY ALL
    ORDER BY ALL;

-- coverage_histogram: how much of the tiles the ROIs cover that win them.
--
-- Grain: one row per grid, label and bin, empty bins included; tiles that are in no ROI are not here. label NULL are
--     the tiles that are in an ROI and have no label all the same.
-- Bins:  `bins` of equal width, each from coverage_from up to coverage_to but without it, then one of the tiles that
--     are covered whole, from 1 to 1. A coverage within 1e-9 of a border, the contract's precision, is on it.
CREATE OR REPLACE MACRO coverage_histogram(bins := 10, grid := NULL) AS TABLE
    WITH counted AS (
        SELECT
            labels.grid,
            labels.label,
            floor(round(labels.coverage * bins, 9))::BIGINT AS bin,
            count(*) AS tiles,
        FROM labels
        WHERE labels.coverage IS NOT NULL AND (grid IS NULL OR labels.grid = grid)
        GROUP BY labels.grid, labels.label, bin
    ),

    named AS (
        SELECT DISTINCT
            counted.grid,
            counted.label,
        FROM counted
    )

    SELECT
        named.grid,
        named.label,
        numbered.bin / bins AS coverage_from,
        least((numbered.bin + 1) / bins, 1.0::DOUBLE) AS coverage_to,
        coalesce(counted.tiles, 0) AS tiles,
    FROM named
    CROSS JOIN (SELECT unnest(range(bins::BIGINT + 1)) AS bin) AS numbered
    LEFT JOIN counted
        ON
            named.grid = counted.grid
            AND named.label IS NOT DISTINCT FROM counted.label
            AND numbered.bin = counted.bin
    ORDER BY named.grid, named.label NULLS LAST, numbered.bin;

-- neighbours: the tiles around the tile whose id is `tile`, at most `distance` steps of the grid away.
--
-- Grain: one row per grid that has the tile, and neighbour; the tile itself is not here. dx and dy are columns and
--     rows from the tile, to the right and down. Order: grid, dy, dx: as they lie on the slide.
CREATE OR REPLACE MACRO neighbours(tile, distance := 1, grid := NULL) AS TABLE
    SELECT
        beside.tile_id,
        beside.grid_x - middle.grid_x AS dx,
        beside.grid_y - middle.grid_y AS dy,
        beside.label,
        beside.roi_name,
        beside.coverage,
        beside.kept,
        beside.slide,
        beside.loc_x,
        beside.loc_y,
        beside.grid_x,
        beside.grid_y,
        beside.grid,
    FROM labels AS middle
    INNER JOIN labels AS beside ON middle.grid = beside.grid
    WHERE
        -- The slide is told by the id, so that no other slide's tiles are looked at.
        middle.slide = slide_of_tile(tile)
        AND beside.slide = slide_of_tile(tile)
        AND middle.tile_id = tile
        AND (grid IS NULL OR (middle.grid = grid AND beside.grid = grid))
        AND abs(beside.grid_x - middle.grid_x) <= distance
        AND abs(beside.grid_y - middle.grid_y) <= distance
        AND (beside.grid_x <> middle.grid_x OR beside.grid_y <> middle.grid_y)
    ORDER BY beside.grid, beside.grid_y, beside.grid_x;

-- rois_at: the ROIs of every set that a point lies in, boundary included; x and y are base pixels.
--
-- Grain: one row per ROI that is no hole. Order: the set in force first, then by name of the set; in a set the order
--     in which its ROIs win the point.
-- Rule:  overlap = largest compares coverage of a tile, which a point has not: the smallest wins there. gives_label is
--     true for the ROI whose label is the point's: the one that wins, unless an artifact or the method removes
--     the point, overlap = exclude and the labels differ, or the rule takes no labels from ROIs. Where no row has
--     it, no ROI gives the point a label; label sets label tiles, and not points.
CREATE OR REPLACE MACRO rois_at(slide, x, y) AS TABLE
    WITH holding AS (
        SELECT
            ranked_roi.*,
            rois.roi_desc,
            rois.area * slides.mpp * slides.mpp / 1e6 AS area_mm2,
        FROM ranked_roi
        INNER JOIN rois ON ranked_roi.roi_id = rois.roi_id
        INNER JOIN slides ON rois.slide = slides.slide
        WHERE ranked_roi.slide = slide AND rois.slide = slide AND ST_Intersects(rois.geom, ST_Point(x, y))
    )

    SELECT
        holding.roi_set,
        holding.roi_name,
        holding.roi_desc,
        holding.label,
        holding.area_mm2,
        holding.in_force,
        holding.is_artifact,
        holding.in_force AND row_number() OVER in_set = 1 AS wins,
        holding.in_force
        AND row_number() OVER in_set = 1
        AND is_kept(label_rule.method, true, bool_or(holding.is_artifact) OVER whole_set, slide_roi_set.has_regions)
        AND list_contains(label_rule.labels_from, 'rois')
        AND NOT (
            label_rule.overlap = 'exclude'
            AND min(holding.label_number) OVER whole_set <> max(holding.label_number) OVER whole_set
        ) AS gives_label,
    FROM holding
    CROSS JOIN label_rule
    LEFT JOIN slide_roi_set ON holding.slide = slide_roi_set.slide
    WINDOW
        in_set AS (PARTITION BY holding.roi_set ORDER BY holding.precedence),
        whole_set AS (PARTITION BY holding.roi_set)
    ORDER BY holding.in_force DESC, holding.roi_set ASC, holding.precedence ASC;

-- shared_slides: the slides that both of two sets have ROIs of.
--
-- Grain: one row per slide. A set that has nothing but artifacts on a slide counts as one without ROIs there.
CREATE OR REPLACE MACRO shared_slides(set_a, set_b) AS TABLE
    SELECT ranked_roi.slide,
    FROM ranked_roi
    WHERE ranked_roi.roi_set IN (set_a, set_b) AND NOT ranked_roi.is_artifact
    GROUP BY ranked_roi.slide
    HAVING bool_or(ranked_roi.roi_set = set_a) AND bool_or(ranked_roi.roi_set = set_b);

-- paired_tiles: the label that each of two sets of ROIs gives a tile, by the rule in force.
--
-- Grain: one row per tile that an ROI of either set holds, on the slides that both sets have ROIs of. Tiles in no ROI
--     of either are not here.
-- Rule:  in each set the least rank wins; artifacts remove tiles, and exclude takes labels away, as in labels. The
--     method plays no part. label is NULL where the set gives the tile none, roi_name where it holds it not.
CREATE OR REPLACE MACRO paired_tiles(set_a, set_b, grid := NULL) AS TABLE
    SELECT
        paired.grid_id,
        paired.slide_id,
        paired.slide,
        paired.grid_x,
        paired.grid_y,
        roi_a.roi_name AS roi_name_a,
        CASE WHEN NOT paired.removed_a THEN roi_a.label END AS label_a,
        roi_b.roi_name AS roi_name_b,
        CASE WHEN NOT paired.removed_b THEN roi_b.label END AS label_b,
    FROM (
        SELECT
            held_roi.grid_id,
            held_roi.slide_id,
            held_roi.slide,
            held_roi.grid_x,
            held_roi.grid_y,
            arg_min(held_roi.roi_id, held_roi.rank) FILTER (WHERE held_roi.roi_set = set_a) AS roi_a,
            arg_min(held_roi.roi_id, held_roi.rank) FILTER (WHERE held_roi.roi_set = set_b) AS roi_b,
            bool_or(held_roi.is_artifact) FILTER (WHERE held_roi.roi_set = set_a)
            OR any_value(held_roi.overlap) = 'exclude'
            AND min(held_roi.label_number) FILTER (WHERE held_roi.roi_set = set_a)
            <> max(held_roi.label_number) FILTER (WHERE held_roi.roi_set = set_a) AS removed_a,
            bool_or(held_roi.is_artifact) FILTER (WHERE held_roi.roi_set = set_b)
            OR any_value(held_roi.overlap) = 'exclude'
            AND min(held_roi.label_number) FILTER (WHERE held_roi.roi_set = set_b)
            <> max(held_roi.label_number) FILTER (WHERE held_roi.roi_set = set_b) AS removed_b,
        FROM held_roi
        SEMI JOIN shared_slides(set_a, set_b) AS shared ON held_roi.slide = shared.slide
        INNER JOIN grids ON held_roi.grid_id = grids.grid_id
        WHERE held_roi.roi_set IN (set_a, set_b) AND (grid IS NULL OR grids.grid = grid)
        GROUP BY held_roi.grid_id, held_roi.slide_id, held_roi.slide, held_roi.grid_x, held_roi.grid_y
    ) AS paired
    LEFT JOIN rois AS roi_a ON paired.roi_a = roi_a.roi_id
    LEFT JOIN rois AS roi_b ON paired.roi_b = roi_b.roi_id;

-- disagreements: the tiles to which two sets of ROIs give different labels; having none counts as a label.
--
-- Grain: one row per tile of the slides that both sets have ROIs of. Order: grid, slide, grid_y, grid_x.
-- Rule:  that of paired_tiles.
CREATE OR REPLACE MACRO disagreements(set_a, set_b, grid := NULL) AS TABLE
    SELECT
        make_tile_id(
            paired.slide,
            tile_location(paired.grid_x, grid_on_slide.stride, grid_on_slide.extract_px, grid_on_slide.origin_x),
            tile_location(paired.grid_y, grid_on_slide.stride, grid_on_slide.extract_px, grid_on_slide.origin_y)
        ) AS tile_id,
        paired.label_a,
        paired.label_b,
        paired.roi_name_a,
        paired.roi_name_b,
        paired.slide,
        paired.grid_x,
        paired.grid_y,
        grid_on_slide.grid,
    FROM paired_tiles(set_a, set_b, grid := grid) AS paired
    INNER JOIN grid_on_slide ON paired.grid_id = grid_on_slide.grid_id AND paired.slide_id = grid_on_slide.slide_id
    WHERE paired.label_a IS DISTINCT FROM paired.label_b
    ORDER BY grid_on_slide.grid, paired.slide, paired.grid_y, paired.grid_x;

-- agreement: how far two sets of ROIs give tiles the same labels.
--
-- Grain: one row per grid and label that either set has, then one with label NULL over all labels; with
--     by_slide := true the same for each slide that both sets have ROIs of, else slide is NULL.
-- Tiles: all tiles of those slides, those in no ROI too. Rule: that of paired_tiles.
-- Counts: a label's n_both tiles have it by both sets, n_a_only by the first alone, n_b_only by the second alone,
--     n_neither by none. Over all labels n_both, n_a_only and n_b_only are the sums of the labels', so that a tile
--     with two labels is in n_a_only and in n_b_only; n_neither are the tiles without any label.
-- kappa: Cohen, Educational and Psychological Measurement 20 (1960) 37-46: (p_o - p_e) / (1 - p_e), with p_o the part
--     of tiles that agree, and p_e what it would be by chance, from how often each set gives each class. Over all
--     labels the classes are the labels and having none. In whole numbers up to the last division; NULL where p_e = 1.
-- dice:  2 n_both / (2 n_both + n_a_only + n_b_only); NULL where no tile has the label.
CREATE OR REPLACE MACRO agreement(set_a, set_b, by_slide := false, grid := NULL) AS TABLE
    WITH held AS MATERIALIZED (
        SELECT
            paired.grid_id,
            paired.slide,
            paired.label_a,
            paired.label_b,
            count(*) AS tiles,
        FROM paired_tiles(set_a, set_b, grid := grid) AS paired
        GROUP BY paired.grid_id, paired.slide, paired.label_a, paired.label_b
    ),

    laid AS (
        SELECT
            grid_on_slide.grid_id,
            grid_on_slide.grid,
            grid_on_slide.slide,
            grid_on_slide.tiles,
            CASE WHEN by_slide THEN grid_on_slide.slide END AS unit,
        FROM grid_on_slide
        SEMI JOIN shared_slides(set_a, set_b) AS shared ON grid_on_slide.slide = shared.slide
        WHERE grid IS NULL OR grid_on_slide.grid = grid
    ),

    -- How many tiles have each pair of labels; the tiles in no ROI of either set are what is left of all.
    paired_label AS MATERIALIZED (
        SELECT
            counted.grid,
            counted.unit,
            counted.label_a,
            counted.label_b,
            sum(counted.tiles) AS tiles,
        FROM (
            SELECT
                laid.grid,
                laid.unit,
                held.label_a,
                held.label_b,
                held.tiles,
            FROM held
            INNER JOIN laid ON held.grid_id = laid.grid_id AND held.slide = laid.slide
            UNION ALL
            SELECT
                laid.grid,
                laid.unit,
                NULL AS label_a,
                NULL AS label_b,
                laid.tiles - coalesce(sum(held.tiles), 0) AS tiles,
            FROM laid
            LEFT JOIN held ON laid.grid_id = held.grid_id AND laid.slide = held.slide
            GROUP BY laid.grid, laid.unit, laid.slide, laid.tiles
        ) AS counted
        GROUP BY counted.grid, counted.unit, counted.label_a, counted.label_b
    ),

    -- The labels of the ROIs of either set, whether a tile has them or not.
    drawn_label AS (
        SELECT DISTINCT
            laid.grid,
            laid.unit,
            ranked_roi.label,
        FROM laid
        INNER JOIN ranked_roi ON laid.slide = ranked_roi.slide
        WHERE
            ranked_roi.roi_set IN (set_a, set_b)
            AND NOT ranked_roi.is_artifact
            AND ranked_roi.label IS NOT NULL
    ),

    of_label AS (
        SELECT
            drawn_label.grid,
            drawn_label.unit,
            drawn_label.label,
            sum(pair.tiles) AS tiles,
            coalesce(sum(pair.tiles) FILTER (WHERE pair.is_a AND pair.is_b), 0) AS n_both,
            coalesce(sum(pair.tiles) FILTER (WHERE pair.is_a AND NOT pair.is_b), 0) AS n_a_only,
            coalesce(sum(pair.tiles) FILTER (WHERE pair.is_b AND NOT pair.is_a), 0) AS n_b_only,
        FROM drawn_label
        INNER JOIN (
            SELECT
                paired_label.*,
                named.label,
                coalesce(paired_label.label_a = named.label, false) AS is_a,
                coalesce(paired_label.label_b = named.label, false) AS is_b,
            FROM paired_label
            CROSS JOIN (SELECT DISTINCT drawn_label.label FROM drawn_label) AS named
        ) AS pair
            ON
                drawn_label.grid = pair.grid
                AND drawn_label.unit IS NOT DISTINCT FROM pair.unit
                AND drawn_label.label = pair.label
        GROUP BY drawn_label.grid, drawn_label.unit, drawn_label.label
    ),

    -- by_chance is p_e times the square of tiles, agreeing is p_o times tiles.
    judged AS (
        SELECT
            of_label.*,
            of_label.tiles - of_label.n_both - of_label.n_a_only - of_label.n_b_only AS n_neither,
            of_label.tiles - of_label.n_a_only - of_label.n_b_only AS agreeing,
            (of_label.n_both + of_label.n_a_only) * (of_label.n_both + of_label.n_b_only)
            + (of_label.tiles - of_label.n_both - of_label.n_a_only)
            * (of_label.tiles - of_label.n_both - of_label.n_b_only) AS by_chance,
        FROM of_label
        UNION ALL BY NAME
        SELECT
            whole.grid,
            whole.unit,
            NULL AS label,
            whole.tiles,
            whole.n_neither,
            coalesce(summed.n_both, 0) AS n_both,
            coalesce(summed.n_a_only, 0) AS n_a_only,
            coalesce(summed.n_b_only, 0) AS n_b_only,
            coalesce(summed.n_both, 0) + whole.n_neither AS agreeing,
            coalesce(summed.by_chance, 0)
            + (whole.tiles - coalesce(summed.n_both + summed.n_a_only, 0))
            * (whole.tiles - coalesce(summed.n_both + summed.n_b_only, 0)) AS by_chance,
        FROM (
            SELECT
                paired_label.grid,
                paired_label.unit,
                sum(paired_label.tiles) AS tiles,
                coalesce(
                    sum(paired_label.tiles) FILTER (WHERE coalesce(paired_label.label_a, paired_label.label_b) IS NULL),
                    0
                ) AS n_neither,
            FROM paired_label
            GROUP BY paired_label.grid, paired_label.unit
        ) AS whole
        LEFT JOIN (
            SELECT
                of_label.grid,
                of_label.unit,
                sum(of_label.n_both) AS n_both,
                sum(of_label.n_a_only) AS n_a_only,
                sum(of_label.n_b_only) AS n_b_only,
                sum((of_label.n_both + of_label.n_a_only) * (of_label.n_both + of_label.n_b_only)) AS by_chance,
            FROM of_label
            GROUP BY of_label.grid, of_label.unit
        ) AS summed
            ON whole.grid = summed.grid AND whole.unit IS NOT DISTINCT FROM summed.unit
    )

    SELECT
        judged.grid,
        judged.unit AS slide,
        judged.label,
        judged.tiles::BIGINT AS tiles,
        judged.n_both::BIGINT AS n_both,
        judged.n_a_only::BIGINT AS n_a_only,
        judged.n_b_only::BIGINT AS n_b_only,
        judged.n_neither::BIGINT AS n_neither,
        judged.agreeing / nullif(judged.tiles, 0) AS agreement,
        (judged.tiles * judged.agreeing - judged.by_chance)
        / nullif(judged.tiles * judged.tiles - judged.by_chance, 0) AS kappa,
        2 * judged.n_both / nullif(2 * judged.n_both + judged.n_a_only + judged.n_b_only, 0) AS dice,
    FROM judged
    ORDER BY judged.grid, judged.unit NULLS LAST, judged.label NULLS LAST;

COMMENT ON MACRO TABLE neighbours IS 'The tiles around a tile, with their labels.';  -- noqa: PRS
COMMENT ON MACRO TABLE tile_counts IS 'Tiles and their area, by columns of the view counts.';
COMMENT ON MACRO TABLE coverage_histogram IS 'Tiles by label and by the part of them that the winning ROI covers.';
COMMENT ON MACRO TABLE rois_at IS 'The ROIs that a point lies in, and which of them gives its label.';
COMMENT ON MACRO TABLE shared_slides IS 'The slides that both of two sets have ROIs of.';
COMMENT ON MACRO TABLE paired_tiles IS 'The label that each of two sets of ROIs gives a tile.';
COMMENT ON MACRO TABLE disagreements IS 'The tiles to which two sets of ROIs give different labels.';
COMMENT ON MACRO TABLE agreement IS 'How far two sets of ROIs give tiles the same labels: counts, kappa and Dice.';
