-- stage_tiles: the tiles of the slides $slide_ids of the grid $grid_id that ROIs or label sets speak of, by the rule
--     in force.
--
-- Grain: one row per tile that an ROI of the set in force holds, or to which a label set of the rule gives something.
--     label and kept are those of the view labels.
CREATE OR REPLACE TEMP TABLE staged_tile AS
WITH held AS (
    SELECT
        tile_winner.slide_id,
        tile_winner.grid_x,
        tile_winner.grid_y,
        tile_winner.roi_id,
        tile_winner.in_artifact,
        tile_winner.n_rois > 1 AS in_several_rois,
        CASE WHEN NOT tile_winner.in_conflict THEN rois.label END AS label,
    FROM tile_winner
    INNER JOIN rois ON tile_winner.roi_id = rois.roi_id
    WHERE
        tile_winner.grid_id = $grid_id
        AND tile_winner.slide_id BETWEEN list_min($slide_ids) AND list_max($slide_ids)
        AND list_contains($slide_ids, tile_winner.slide_id)
),

given AS (
    SELECT
        given_label.slide_id,
        given_label.grid_x,
        given_label.grid_y,
        given_label.label,
        given_label.place,
    FROM given_label
    WHERE
        given_label.grid_id = $grid_id
        AND given_label.slide_id BETWEEN list_min($slide_ids) AND list_max($slide_ids)
        AND list_contains($slide_ids, given_label.slide_id)
),

-- Each tile once: held by an ROI, given something, or both.
spoken_of AS (
    SELECT
        coalesce(held.slide_id, given.slide_id) AS slide_id,
        coalesce(held.grid_x, given.grid_x) AS grid_x,
        coalesce(held.grid_y, given.grid_y) AS grid_y,
        held.roi_id,
        coalesce(held.in_several_rois, false) AS in_several_rois,
        coalesce(held.in_artifact, false) AS in_artifact,
        held.label AS roi_label,
        given.slide_id IS NOT NULL AND NOT coalesce(held.in_artifact, false) AS is_given,
        given.label AS given_label,
        given.place,
    FROM held
    FULL OUTER JOIN given
        ON held.slide_id = given.slide_id AND held.grid_x = given.grid_x AND held.grid_y = given.grid_y
),

judged AS (
    SELECT
        spoken_of.*,
        is_kept(
            label_rule.method,
            spoken_of.roi_id IS NOT NULL,
            spoken_of.in_artifact,
            coalesce(slide_roi_set.has_regions, false)
        ) AS kept_by_rois,
        label_rule.labels_from,
    FROM spoken_of
    INNER JOIN slides ON spoken_of.slide_id = slides.slide_id
    CROSS JOIN label_rule
    LEFT JOIN slide_roi_set ON slides.slide = slide_roi_set.slide
)

SELECT
    $grid_id::INTEGER AS grid_id,
    judged.slide_id,
    judged.grid_x,
    judged.grid_y,
    judged.roi_id,
    judged.in_several_rois,
    judged.kept_by_rois OR judged.is_given AS kept,
    CASE
        WHEN
            roi_labels_tile(
                CASE WHEN judged.kept_by_rois THEN judged.roi_label END,
                judged.labels_from,
                CASE WHEN judged.is_given THEN judged.place END
            )
            THEN judged.roi_label
        WHEN judged.is_given THEN judged.given_label
    END AS label,
FROM judged
