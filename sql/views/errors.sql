-- errors: the tiles that a run was evaluated on and got wrong, with what the study says of them now.
--
-- Grain: one row per evaluation and tile whose predicted class is not the label that it was evaluated against.
-- label is that label; label_now, roi_name, site, split and fold are the study's, NULL where the tile is not there or
--     its slide's labels are out of date.
CREATE OR REPLACE VIEW errors AS
SELECT
    evaluated_tiles.run,
    evaluated_tiles.evaluation,
    evaluated_tiles.grid,
    evaluated_tiles.tile_id,
    evaluated_tiles.slide,
    evaluated_tiles.patient,
    labels.site,
    labels.split,
    labels.fold,
    evaluated_tiles.label,
    labels.label AS label_now,
    evaluated_tiles.predicted,
    evaluated_tiles.probability,
    evaluated_tiles.probabilities[evaluated_tiles.label] AS label_probability,
    evaluated_tiles.loss,
    evaluated_tiles.probabilities,
    labels.roi_name,
    labels.coverage,
FROM evaluated_tiles
LEFT JOIN labels
    ON
        evaluated_tiles.grid = labels.grid
        AND evaluated_tiles.slide = labels.slide
        AND evaluated_tiles.tile_id = labels.tile_id
WHERE evaluated_tiles.predicted <> evaluated_tiles.label;
COMMENT ON VIEW errors IS 'The evaluated tiles whose predicted class is not the label they were evaluated against.';
COMMENT ON COLUMN errors.run IS 'Name of the run.';
COMMENT ON COLUMN errors.evaluation IS 'Name of the evaluation.';
COMMENT ON COLUMN errors.grid IS 'Name of the grid.';
COMMENT ON COLUMN errors.tile_id IS 'The tile, as in the view labels.';
COMMENT ON COLUMN errors.slide IS 'Name of the slide.';
COMMENT ON COLUMN errors.patient IS 'The patient, as the beton had it.';
COMMENT ON COLUMN errors.site IS 'Site of the patient, where one is given.';
COMMENT ON COLUMN errors.split IS 'Side of the patient in the split in force.';
COMMENT ON COLUMN errors.fold IS 'Fold of the patient in the split in force.';
COMMENT ON COLUMN errors.label IS 'The label, as the beton had it.';
COMMENT ON COLUMN errors.label_now IS 'The label that the study gives the tile now; NULL for none.';
COMMENT ON COLUMN errors.predicted IS 'Class of the greatest probability.';
COMMENT ON COLUMN errors.probability IS 'Its probability, 0 to 1.';
COMMENT ON COLUMN errors.label_probability IS 'Probability of the label, 0 to 1.';
COMMENT ON COLUMN errors.loss IS 'Cross-entropy of the label, nats.';
COMMENT ON COLUMN errors.probabilities IS 'Probability of each class.';
COMMENT ON COLUMN errors.roi_name IS 'The ROI that wins the tile now.';
COMMENT ON COLUMN errors.coverage IS 'Part of the tile that this ROI covers, 0 to 1.';
