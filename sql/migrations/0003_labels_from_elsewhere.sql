-- 0003_labels_from_elsewhere: labels of tiles that come from tables, and which of the sources labels.
--
-- Studies of before take their labels from ROIs, as they did.
-- A default that is a list would make DuckDB begin a transaction of its own.
ALTER TABLE label_rule ADD COLUMN labels_from VARCHAR [];
UPDATE label_rule
SET labels_from = ['rois'];
COMMENT ON COLUMN label_rule.labels_from IS
'Where labels come from, the first that labels a tile: rois, or names of label_sets.';

CREATE SEQUENCE label_set_ids START 1;
CREATE TABLE label_sets (
    label_set_id INTEGER PRIMARY KEY DEFAULT nextval('label_set_ids'),
    name VARCHAR NOT NULL,
    grid_id INTEGER NOT NULL,
    kind VARCHAR NOT NULL CHECK (kind IN ('labels', 'numbers', 'soft')),
    classes VARCHAR [] NOT NULL,
    source VARCHAR NOT NULL,
    sha256 VARCHAR,
    content VARCHAR NOT NULL,
    options VARCHAR NOT NULL DEFAULT '{}',
    UNIQUE (name, grid_id)
);
COMMENT ON TABLE label_sets IS
'Sets of labels of tiles that add-labels read; a set of a name has one kind in every grid.';
COMMENT ON COLUMN label_sets.label_set_id IS 'Key used by the large table.';
COMMENT ON COLUMN label_sets.name IS 'Name of the set, such as consensus.';
COMMENT ON COLUMN label_sets.grid_id IS 'The grid whose tiles it labels.';
COMMENT ON COLUMN label_sets.kind IS
'labels: a text a tile; numbers: a number a tile; soft: a probability of each class.';
COMMENT ON COLUMN label_sets.classes IS
'The labels that its tiles have, or the classes of soft labels, in their order.';
COMMENT ON COLUMN label_sets.source IS 'Absolute path of the file that it was read from, or what it was in Python.';
COMMENT ON COLUMN label_sets.sha256 IS 'Fingerprint of the file''s bytes; NULL for what was no file.';
COMMENT ON COLUMN label_sets.content IS 'Fingerprint of its rows, whatever their order.';
COMMENT ON COLUMN label_sets.options IS 'What else add-labels was told about the source, as JSON.';

CREATE TABLE tile_labels (
    label_set_id INTEGER NOT NULL,
    slide_id INTEGER NOT NULL,
    grid_x INTEGER NOT NULL,
    grid_y INTEGER NOT NULL,
    label VARCHAR,
    value DOUBLE,
    probabilities DOUBLE []
);
COMMENT ON TABLE tile_labels IS 'One row per set and tile that it labels, in the order of slide_id, grid_y, grid_x.';
COMMENT ON COLUMN tile_labels.label_set_id IS 'The set.';
COMMENT ON COLUMN tile_labels.slide_id IS 'The slide.';
COMMENT ON COLUMN tile_labels.grid_x IS 'Column of the tile in the set''s grid.';
COMMENT ON COLUMN tile_labels.grid_y IS 'Row of the tile.';
COMMENT ON COLUMN tile_labels.label IS
'The label; of soft labels the class of the greatest probability, of equals the first; NULL for numbers.';
COMMENT ON COLUMN tile_labels.value IS 'The number; NULL for labels.';
COMMENT ON COLUMN tile_labels.probabilities IS 'Probability of each class of the set, for soft labels alone.';
