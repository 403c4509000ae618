-- insert_label_counts: tiles by label of the slides $slide_ids of the grid $grid_id, by the rule in force.
--
-- Grain: one row per slide and label that a tile of it has; label NULL are the tiles without one.
-- Source: staged_winner. The tiles of which neither ROIs nor label sets speak are not looked at: what is left of the
--     grid's columns and rows is their number.
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

judged AS (
    SELECT
        staged_winner.grid_id,
        staged_winner.slide_id,
        staged_winner.label,
        staged_winner.kept,
        staged_winner.roi_id IS NULL AS in_no_roi,
        staged_winner.in_several_rois,
        staged_winner.tiles,
    FROM staged_winner
    UNION ALL
    SELECT
        counted_slide.grid_id,
        counted_slide.slide_id,
        NULL AS label,
        is_kept(counted_slide.method, false, false, counted_slide.has_regions) AS kept,
        true AS in_no_roi,
        false AS in_several_rois,
        counted_slide.tiles - coalesce(spoken_of.tiles, 0) AS tiles,
    FROM counted_slide
    LEFT JOIN (
        SELECT
            staged_winner.slide_id,
            sum(staged_winner.tiles)::BIGINT AS tiles,
        FROM staged_winner
        GROUP BY staged_winner.slide_id
    ) AS spoken_of ON counted_slide.slide_id = spoken_of.slide_id
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
