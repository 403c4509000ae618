-- given_label: what label sets give each tile, by those of the rule in force.
--
-- Grain: one row per (grid_id, slide_id, grid_x, grid_y) to which one of those sets gives a label or a number.
-- Ties:  the first set of the rule that labels the tile gives its label, the first that has a number its value.
-- slide stands beside slide_id so that a filter of the view labels by the slide's name reaches tile_labels.
CREATE OR REPLACE VIEW given_label AS
SELECT
    label_sets.grid_id,
    tile_labels.slide_id,
    slides.slide,
    tile_labels.grid_x,
    tile_labels.grid_y,
    min(list_position(label_rule.labels_from, label_sets.name))
    FILTER (WHERE tile_labels.label IS NOT NULL) AS place,
    arg_min(tile_labels.label, list_position(label_rule.labels_from, label_sets.name))
    FILTER (WHERE tile_labels.label IS NOT NULL) AS label,
    arg_min(tile_labels.label_set_id, list_position(label_rule.labels_from, label_sets.name))
    FILTER (WHERE tile_labels.label IS NOT NULL) AS label_set_id,
    arg_min_null(tile_labels.probabilities, list_position(label_rule.labels_from, label_sets.name))
    FILTER (WHERE tile_labels.label IS NOT NULL) AS probabilities,
    arg_min(tile_labels.value, list_position(label_rule.labels_from, label_sets.name))
    FILTER (WHERE tile_labels.value IS NOT NULL) AS value,
FROM tile_labels
INNER JOIN label_sets ON tile_labels.label_set_id = label_sets.label_set_id
INNER JOIN slides ON tile_labels.slide_id = slides.slide_id
CROSS JOIN label_rule
WHERE list_contains(label_rule.labels_from, label_sets.name)
GROUP BY label_sets.grid_id, tile_labels.slide_id, slides.slide, tile_labels.grid_x, tile_labels.grid_y;
COMMENT ON VIEW given_label IS 'What label sets give each tile, by those of the rule in force.';
COMMENT ON COLUMN given_label.grid_id IS 'The grid.';
COMMENT ON COLUMN given_label.slide_id IS 'The slide.';
COMMENT ON COLUMN given_label.slide IS 'Name of the slide.';
COMMENT ON COLUMN given_label.grid_x IS 'Column of the tile.';
COMMENT ON COLUMN given_label.grid_y IS 'Row of the tile.';
COMMENT ON COLUMN given_label.place IS 'Place of the set that gives the label among the sources of the rule, from 1.';
COMMENT ON COLUMN given_label.label IS 'The label; NULL where sets give a number alone.';
COMMENT ON COLUMN given_label.label_set_id IS 'The set that gives it.';
COMMENT ON COLUMN given_label.probabilities IS 'Probability of each class of that set, where its labels are soft.';
COMMENT ON COLUMN given_label.value IS 'The number, or NULL.';
