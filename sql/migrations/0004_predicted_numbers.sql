-- 0004_predicted_numbers: tables for what networks say of numbers, and comments that speak of all tasks.
CREATE TABLE IF NOT EXISTS predicted_numbers (
    run VARCHAR NOT NULL,
    grid VARCHAR NOT NULL,
    slide VARCHAR NOT NULL,
    tile_id VARCHAR NOT NULL,
    grid_x INTEGER NOT NULL,
    grid_y INTEGER NOT NULL,
    target VARCHAR NOT NULL,
    number FLOAT NOT NULL,
    deviation FLOAT
);
COMMENT ON TABLE predicted_numbers IS
'One row per run, grid, tile and number that was predicted by a run of task regression; a slide is whole or absent.';
COMMENT ON COLUMN predicted_numbers.run IS 'The run.';
COMMENT ON COLUMN predicted_numbers.grid IS 'Name of the grid.';
COMMENT ON COLUMN predicted_numbers.slide IS 'Name of the slide.';
COMMENT ON COLUMN predicted_numbers.tile_id IS 'The tile, as in the view labels.';
COMMENT ON COLUMN predicted_numbers.grid_x IS 'Column of the tile.';
COMMENT ON COLUMN predicted_numbers.grid_y IS 'Row of the tile.';
COMMENT ON COLUMN predicted_numbers.target IS 'Column of the patients'' table that the number is of, such as age.';
COMMENT ON COLUMN predicted_numbers.number IS 'The number, in the unit of that column: the mean over the passes.';
COMMENT ON COLUMN predicted_numbers.deviation IS
'Standard deviation over the passes, in that unit; NULL where there was one alone.';

CREATE TABLE IF NOT EXISTS evaluated_numbers (
    run VARCHAR NOT NULL,
    evaluation VARCHAR NOT NULL,
    grid VARCHAR NOT NULL,
    slide VARCHAR NOT NULL,
    tile_id VARCHAR NOT NULL,
    patient VARCHAR NOT NULL,
    target VARCHAR NOT NULL,
    observed DOUBLE NOT NULL,
    number DOUBLE NOT NULL
);
COMMENT ON TABLE evaluated_numbers IS
'One row per evaluation, tile and number, of a run of task regression; whole, and kept when a slide is removed.';
COMMENT ON COLUMN evaluated_numbers.run IS 'The run.';
COMMENT ON COLUMN evaluated_numbers.evaluation IS 'The evaluation.';
COMMENT ON COLUMN evaluated_numbers.grid IS 'Name of the grid.';
COMMENT ON COLUMN evaluated_numbers.slide IS 'Name of the slide.';
COMMENT ON COLUMN evaluated_numbers.tile_id IS 'The tile, as in the view labels.';
COMMENT ON COLUMN evaluated_numbers.patient IS 'The patient, as the beton had it.';
COMMENT ON COLUMN evaluated_numbers.target IS 'Column of the patients'' table that the numbers are of.';
COMMENT ON COLUMN evaluated_numbers.observed IS 'The number that the beton had, in the unit of that column.';
COMMENT ON COLUMN evaluated_numbers.number IS 'The number that the network says.';

COMMENT ON COLUMN runs.classes IS 'Names of the outputs, in order: classes, labels, or columns of numbers.';
COMMENT ON COLUMN predictions.predicted IS
'Class of the greatest probability; or the labels of a half or more, as a;b, and - for none.';
COMMENT ON COLUMN predictions.probability IS
'Its probability, 0 to 1; of several labels that of all being so, as if independent.';
COMMENT ON COLUMN predictions.probabilities IS 'Probability of each class or label.';
COMMENT ON COLUMN evaluations.classes IS 'Names of the outputs, in order: classes, labels, or columns of numbers.';
COMMENT ON COLUMN evaluations.tiles IS 'Number of its tiles, in evaluated_tiles or evaluated_numbers.';
COMMENT ON COLUMN evaluated_tiles.label IS
'The label, or the labels as a;b, as the beton had it; the study may have another by now.';
COMMENT ON COLUMN evaluated_tiles.predicted IS
'Class of the greatest probability; or the labels of a half or more, as a;b, and - for none.';
COMMENT ON COLUMN evaluated_tiles.probability IS
'Its probability, 0 to 1; of several labels that of all being so, as if independent.';
COMMENT ON COLUMN evaluated_tiles.loss IS 'Cross-entropy of the label, nats; of several labels the mean of theirs.';
COMMENT ON COLUMN evaluated_tiles.probabilities IS 'Probability of each class or label.';
