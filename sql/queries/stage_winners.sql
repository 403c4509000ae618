-- stage_winners: how many tiles of the table staged_tile each ROI wins, with each label.
--
-- Grain: one row per slide, ROI (NULL for tiles in none), label, and what else tiles are counted by.
CREATE OR REPLACE TEMP TABLE staged_winner AS
SELECT
    staged_tile.grid_id,
    staged_tile.slide_id,
    staged_tile.roi_id,
    staged_tile.label,
    staged_tile.kept,
    staged_tile.in_several_rois,
    count(*) AS tiles,
FROM staged_tile
GROUP BY ALL
