-- stage_labels: the tiles of the slides $slide_ids of the grid $grid_id that have a label, by the rule in force.
--
-- Grain: one row per tile with a label, as the view labels has it; the others are not here.
CREATE OR REPLACE TEMP TABLE staged_label AS
SELECT
    tile_winner.slide_id,
    tile_winner.grid_x,
    tile_winner.grid_y,
    rois.label,
FROM tile_winner
INNER JOIN rois ON tile_winner.roi_id = rois.roi_id
INNER JOIN slide_roi_set ON tile_winner.slide = slide_roi_set.slide
CROSS JOIN label_rule
WHERE
    tile_winner.grid_id = $grid_id
    AND tile_winner.slide_id BETWEEN list_min($slide_ids) AND list_max($slide_ids)
    AND list_contains($slide_ids, tile_winner.slide_id)
    AND rois.label IS NOT NULL
    AND NOT tile_winner.in_conflict
    AND is_kept(label_rule.method, true, tile_winner.in_artifact, slide_roi_set.has_regions)
