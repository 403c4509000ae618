-- create_incoming_label: the temporary table into which a table of labels is read piece by piece.
CREATE OR REPLACE TEMP TABLE incoming_label (
    slide_id INTEGER,
    grid_x INTEGER,
    grid_y INTEGER,
    slide VARCHAR,
    called VARCHAR,
    label VARCHAR,
    value DOUBLE,
    probabilities DOUBLE [],
    is_tied BOOLEAN,
    wrong VARCHAR
)
