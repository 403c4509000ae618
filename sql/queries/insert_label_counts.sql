-- insert_label_counts: tiles by label of the slides $slide_ids of the grid $grid_id, by the rule in force.
--
-- Grain: one row per slide and label that a tile of it has; label NULL are the tiles without one.
-- Source: staged_winner. The tiles in no ROI are not looked at: what is left of the grid's columns and rows is
--     their number.
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
        staged_winner.grid_id,
        staged_winner.slide_id,
        staged_winner.in_conflict,
        staged_winner.in_several_rois,
        staged_winner.tiles,
        rois.label,
        is_kept(counted_slide.method, true, staged_winner.in_artifact, counted_slide.has_regions) AS kept,
    FROM staged_winner
    INNER JOIN counted_slide ON staged_winner.slide_id = counted_slide.slide_id
    INNER JOIN rois ON staged_winner.roi_id = rois.roi_id
),

judged AS (
    SELECT
        in_roi.grid_id,
        in_roi.slide_id,
        CASE WHEN in_roi.kept AND NOT in_roi.in_conflict THEN in_roi.label END AS label,
        in_roi.kept,
        false AS in_no_roi,
        in_roi.in_several_rois,
        in_roi.tiles,
    FROM in_roi
    UNION ALL
    SELECT
        counted_slide.grid_id,
        counted_slide.slide_id,
        NULL AS label,
        is_kept(counted_slide.method, false, false, counted_slide.has_regions) AS kept,
        true AS in_no_roi,
        false AS in_several_rois,
        counted_slide.tiles - coalesce(held.tiles, 0) AS tiles,
    FROM counted_slide
    LEFT JOIN (
        SELECT
            in_roi.slide_id,
            sum(in_roi.tiles)::BIGINT AS tiles,
        FROM in_roi
        GROUP BY in_roi.slide_id
    ) AS held ON counted_slide.slide_id = held.slide_id
)

SELECT
    judged.grid_id,
    judged.slide_id,
    judged.label,
    sum(judged.tiles)::BIGINT AS tiles,
    coalesce(sum(judged.tiles) FILTER (WHERE judged.kept), 0)::BIGINT AS kept,
    coalesce(sum(judged.tiles) FILTER (WHERE judged.in_no_roi), 0)::BIGINT AS in_no_roi,
    coalesce(sum(judged.tiles) FILTER (WHERE judged.in_several_rois), 0)::BIGINT AS in_several_rois,
FROM judged
WHERE judged.tiles > 0
GROUP BY judged.grid_id, judged.slide_id, judged.label
ORDER BY judged.slide_id, judged.label NULLS LAST
