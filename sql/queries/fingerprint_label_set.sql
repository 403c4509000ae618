-- fingerprint_label_set: what tells the rows of the label set $label_set_id from others, whatever their order.
--
-- Grain: one row. Slides count by their names, so that a study made anew has the same fingerprint.
SELECT
    label_content(
        bit_xor(hash_of_label(
            slides.slide, tile_labels.grid_x, tile_labels.grid_y, tile_labels.label, tile_labels.value,
            tile_labels.probabilities
        )),
        count(*)
    ) AS content,
FROM tile_labels
INNER JOIN slides ON tile_labels.slide_id = slides.slide_id
WHERE tile_labels.label_set_id = $label_set_id
