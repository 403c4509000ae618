-- tile_winner: which ROI wins each tile that lies in any.
--
-- Grain: one row per (grid_id, slide_id, grid_x, grid_y) that is in at least one ROI by the rule in force.
-- Ties:  by ranked_roi.precedence; under largest by coverage, in steps of 1e-9, first.
CREATE OR REPLACE VIEW tile_winner AS
WITH held AS (
    SELECT
        tile_rois.grid_id,
        tile_rois.slide_id,
        tile_rois.grid_x,
        tile_rois.grid_y,
        tile_rois.roi_id,
        tile_rois.coverage,
        ranked_roi.is_artifact,
        ranked_roi.label_number,
        label_rule.overlap,
        CASE
            WHEN label_rule.overlap = 'largest'
                THEN (1000000000 - round(tile_rois.coverage * 1000000000)::BIGINT) * 2147483648 + ranked_roi.precedence
            ELSE ranked_roi.precedence
        END AS rank,
    FROM tile_rois
    INNER JOIN ranked_roi ON tile_rois.roi_id = ranked_roi.roi_id
    CROSS JOIN label_rule
    WHERE
        CASE
            WHEN label_rule.rule = 'centre' THEN tile_rois.centre
            ELSE tile_rois.coverage >= label_rule.threshold
        END
)

SELECT
    held.grid_id,
    held.slide_id,
    held.grid_x,
    held.grid_y,
    arg_min(held.roi_id, held.rank) AS roi_id,
    arg_min(held.coverage, held.rank) AS coverage,
    count(*) AS n_rois,
    bool_or(held.is_artifact) AS in_artifact,
    any_value(held.overlap) = 'exclude' AND min(held.label_number) <> max(held.label_number) AS in_conflict,
FROM held
GROUP BY held.grid_id, held.slide_id, held.grid_x, held.grid_y;
COMMENT ON VIEW tile_winner IS 'Which ROI wins each tile that lies in any, by the rule in force.';
COMMENT ON COLUMN tile_winner.grid_id IS 'The grid.';
COMMENT ON COLUMN tile_winner.slide_id IS 'The slide.';
COMMENT ON COLUMN tile_winner.grid_x IS 'Column of the tile.';
COMMENT ON COLUMN tile_winner.grid_y IS 'Row of the tile.';
COMMENT ON COLUMN tile_winner.roi_id IS 'The ROI that wins the tile.';
COMMENT ON COLUMN tile_winner.coverage IS 'Part of the tile that it covers, 0 to 1.';
COMMENT ON COLUMN tile_winner.n_rois IS 'ROIs that the tile is in.';
COMMENT ON COLUMN tile_winner.in_artifact IS 'True if one of them is an artifact.';
COMMENT ON COLUMN tile_winner.in_conflict IS 'True if their labels differ and overlap is exclude.';
