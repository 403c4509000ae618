-- tile_winner: which ROI wins each tile that lies in any of the set in force.
--
-- Grain: one row per (grid_id, slide_id, grid_x, grid_y) that is in at least one such ROI by the rule in force.
-- slide stands beside slide_id so that a filter of the view labels by the slide's name reaches tile_rois.
CREATE OR REPLACE VIEW tile_winner AS
SELECT
    held_roi.grid_id,
    held_roi.slide_id,
    held_roi.slide,
    held_roi.grid_x,
    held_roi.grid_y,
    arg_min(held_roi.roi_id, held_roi.rank) AS roi_id,
    arg_min(held_roi.coverage, held_roi.rank) AS coverage,
    count(*) AS n_rois,
    bool_or(held_roi.is_artifact) AS in_artifact,
    any_value(held_roi.overlap) = 'exclude'
    AND min(held_roi.label_number) <> max(held_roi.label_number) AS in_conflict,
FROM held_roi
WHERE held_roi.in_force
GROUP BY held_roi.grid_id, held_roi.slide_id, held_roi.slide, held_roi.grid_x, held_roi.grid_y;
COMMENT ON VIEW tile_winner IS 'Which ROI wins each tile that lies in any, by the rule in force.';
COMMENT ON COLUMN tile_winner.grid_id IS 'The grid.';
COMMENT ON COLUMN tile_winner.slide_id IS 'The slide.';
COMMENT ON COLUMN tile_winner.slide IS 'Name of the slide.';
COMMENT ON COLUMN tile_winner.grid_x IS 'Column of the tile.';
COMMENT ON COLUMN tile_winner.grid_y IS 'Row of the tile.';
COMMENT ON COLUMN tile_winner.roi_id IS 'The ROI that wins the tile.';
COMMENT ON COLUMN tile_winner.coverage IS 'Part of the tile that it covers, 0 to 1.';
COMMENT ON COLUMN tile_winner.n_rois IS 'ROIs that the tile is in.';
COMMENT ON COLUMN tile_winner.in_artifact IS 'True if one of them is an artifact.';
COMMENT ON COLUMN tile_winner.in_conflict IS 'True if their labels differ and overlap is exclude.';
