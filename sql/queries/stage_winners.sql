-- stage_winners: how many tiles of the table staged_tile each ROI wins.
--
-- Grain: one row per slide, ROI, and what else decides a tile's label and whether it is kept.
CREATE OR REPLACE TEMP TABLE staged_winner AS
SELECT
    staged_tile.grid_id,
    staged_tile.slide_id,
    staged_tile.roi_id,
    staged_tile.in_artifact,
    staged_tile.in_conflict,
    staged_tile.in_several_rois,
    count(*) AS tiles,
FROM staged_tile
GROUP BY ALL
