-- stage_tiles: the tiles of the slides $slide_ids of the grid $grid_id that lie in an ROI, by the rule in force.
--
-- Grain: one row per tile that an ROI of the set in force holds. label is that of the view labels.
CREATE OR REPLACE TEMP TABLE staged_tile AS
SELECT
    tile_winner.grid_id,
    tile_winner.slide_id,
    tile_winner.grid_x,
    tile_winner.grid_y,
    tile_winner.roi_id,
    tile_winner.in_artifact,
    tile_winner.in_conflict,
    tile_winner.n_rois > 1 AS in_several_rois,
    CASE
        WHEN
            NOT tile_winner.in_conflict
            AND is_kept(label_rule.method, true, tile_winner.in_artifact, slide_roi_set.has_regions)
            THEN rois.label
    END AS label,
FROM tile_winner
INNER JOIN rois ON tile_winner.roi_id = rois.roi_id
INNER JOIN slide_roi_set ON tile_winner.slide = slide_roi_set.slide
CROSS JOIN label_rule
WHERE
    tile_winner.grid_id = $grid_id
    AND tile_winner.slide_id BETWEEN list_min($slide_ids) AND list_max($slide_ids)
    AND list_contains($slide_ids, tile_winner.slide_id)
