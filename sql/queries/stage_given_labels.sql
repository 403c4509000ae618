-- stage_given_labels: the rows of incoming_label, with labels as given_name has them, in the order of tiles.
--
-- Grain: one row per row of incoming_label: a tile may be there more than once. Order: slide_id, grid_y, grid_x.
CREATE OR REPLACE TEMP TABLE staged_label AS
SELECT
    incoming_label.slide_id,
    incoming_label.grid_x,
    incoming_label.grid_y,
    given_name.label,
    incoming_label.value,
    incoming_label.probabilities,
    incoming_label.is_tied,
FROM incoming_label
LEFT JOIN given_name ON incoming_label.label = given_name.text
ORDER BY incoming_label.slide_id, incoming_label.grid_y, incoming_label.grid_x
