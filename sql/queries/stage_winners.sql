-- stage_winners: how many tiles each ROI wins on the slides $slide_ids of the grid $grid_id, by the rule in force.
--
-- Grain: one row per slide, ROI, and what else decides a tile's label and whether it is kept.
CREATE OR REPLACE TEMP TABLE staged_winner AS
SELECT
    tile_winner.grid_id,
    tile_winner.slide_id,
    tile_winner.roi_id,
    tile_winner.in_artifact,
    tile_winner.in_conflict,
    tile_winner.n_rois > 1 AS in_several_rois,
    count(*) AS tiles,
FROM tile_winner
WHERE
    tile_winner.grid_id = $grid_id
    AND tile_winner.slide_id BETWEEN list_min($slide_ids) AND list_max($slide_ids)
    AND list_contains($slide_ids, tile_winner.slide_id)
GROUP BY ALL
