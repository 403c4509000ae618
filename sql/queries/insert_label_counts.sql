-- insert_label_counts: tiles by label of the slides $slide_ids of the grid $grid_id, by the rule in force.
--
-- Grain: one row per slide and label that a tile of it has; label NULL are the tiles without one.
-- The tiles in no ROI are not looked at: what is left of the grid's columns and rows is their number.
INSERT INTO label_counts
WITH counted_slide AS (
    SELECT
        grid_slides.grid_id,
        grid_slides.slide_id,
        grid_slides.n_columns::BIGINT * grid_slides.n_rows AS tiles,
        label_rule.method,
        coalesce(slide_roi_set.has_regions, false) AS has_regions,
    FROM grid_slides
    INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
    CROSS JOIN label_rule
    LEFT JOIN slide_roi_set ON slides.slide = slide_roi_set.slide
    WHERE grid_slides.grid_id = $grid_id AND list_contains($slide_ids, grid_slides.slide_id)
),

in_roi AS (
    SELECT
        judged.grid_id,
        judged.slide_id,
        CASE WHEN judged.kept AND NOT judged.in_conflict THEN rois.label END AS label,
        count(*) AS tiles,
        count(*) FILTER (WHERE judged.kept) AS kept,
        count(*) FILTER (WHERE judged.n_rois > 1) AS in_several_rois,
    FROM (
        SELECT
            tile_winner.*,
            is_kept(counted_slide.method, true, tile_winner.in_artifact, counted_slide.has_regions) AS kept,
        FROM tile_winner
        INNER JOIN counted_slide ON tile_winner.slide_id = counted_slide.slide_id
        WHERE
            tile_winner.grid_id = $grid_id
            AND tile_winner.slide_id BETWEEN list_min($slide_ids) AND list_max($slide_ids)
    ) AS judged
    INNER JOIN rois ON judged.roi_id = rois.roi_id
    GROUP BY ALL
),

in_no_roi AS (
    SELECT
        counted_slide.grid_id,
        counted_slide.slide_id,
        counted_slide.tiles - coalesce(sum(in_roi.tiles), 0)::BIGINT AS tiles,
        is_kept(counted_slide.method, false, false, counted_slide.has_regions) AS kept,
    FROM counted_slide
    LEFT JOIN in_roi ON counted_slide.slide_id = in_roi.slide_id
    GROUP BY
        counted_slide.grid_id, counted_slide.slide_id, counted_slide.tiles, counted_slide.method,
        counted_slide.has_regions
)

SELECT
    part.grid_id,
    part.slide_id,
    part.label,
    sum(part.tiles)::BIGINT AS tiles,
    sum(part.kept)::BIGINT AS kept,
    sum(part.in_no_roi)::BIGINT AS in_no_roi,
    sum(part.in_several_rois)::BIGINT AS in_several_rois,
FROM (
    SELECT
        in_roi.*,
        0 AS in_no_roi,
    FROM in_roi
    UNION ALL BY NAME
    SELECT
        in_no_roi.grid_id,
        in_no_roi.slide_id,
        NULL AS label,
        in_no_roi.tiles,
        CASE WHEN in_no_roi.kept THEN in_no_roi.tiles ELSE 0 END AS kept,
        0 AS in_several_rois,
        in_no_roi.tiles AS in_no_roi,
    FROM in_no_roi
    WHERE in_no_roi.tiles > 0
) AS part
GROUP BY part.grid_id, part.slide_id, part.label
ORDER BY part.slide_id, part.label NULLS LAST
