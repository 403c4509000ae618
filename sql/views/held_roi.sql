-- held_roi: which tiles each ROI holds by the rule in force, whichever set it belongs to.
--
-- Grain: one row per tile and ROI that holds it: by its centre, or by enough of its area.
-- Ties:  of the ROIs of one set, the least rank wins the tile: precedence; under largest coverage comes first,
--     in steps of 1e-9.
CREATE OR REPLACE VIEW held_roi AS
SELECT
    tile_rois.grid_id,
    tile_rois.slide_id,
    ranked_roi.slide,
    tile_rois.grid_x,
    tile_rois.grid_y,
    ranked_roi.roi_set,
    tile_rois.roi_id,
    ranked_roi.roi_name,
    ranked_roi.label,
    tile_rois.coverage,
    ranked_roi.in_force,
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
    END;
COMMENT ON VIEW held_roi IS 'Which tiles each ROI holds by the rule in force, whichever set it belongs to.';
COMMENT ON COLUMN held_roi.grid_id IS 'The grid.';
COMMENT ON COLUMN held_roi.slide_id IS 'The slide.';
COMMENT ON COLUMN held_roi.slide IS 'Name of the slide.';
COMMENT ON COLUMN held_roi.grid_x IS 'Column of the tile.';
COMMENT ON COLUMN held_roi.grid_y IS 'Row of the tile.';
COMMENT ON COLUMN held_roi.roi_set IS 'Set of ROIs that the ROI belongs to.';
COMMENT ON COLUMN held_roi.roi_id IS 'The ROI.';
COMMENT ON COLUMN held_roi.roi_name IS 'Its name.';
COMMENT ON COLUMN held_roi.label IS 'Its label, or NULL.';
COMMENT ON COLUMN held_roi.coverage IS 'Part of the tile that it covers, 0 to 1.';
COMMENT ON COLUMN held_roi.in_force IS 'True if its set is the one that labels the slide.';
COMMENT ON COLUMN held_roi.is_artifact IS 'True if the rule names its label as an artifact.';
COMMENT ON COLUMN held_roi.label_number IS 'Number of the label within slide and set; having none counts as one.';
COMMENT ON COLUMN held_roi.overlap IS 'Which of several ROIs wins, as the rule says.';
COMMENT ON COLUMN held_roi.rank IS 'The ROI of the least rank wins the tile among those of its set.';
