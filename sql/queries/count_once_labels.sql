-- count_once_labels: what once_label holds, and what tells it from others, as fingerprint_label_set tells it.
--
-- Grain: one row.
SELECT
    count(*) FILTER (WHERE once_label.label IS NOT NULL OR once_label.value IS NOT NULL) AS tiles,
    count(DISTINCT once_label.slide_id)
        FILTER (WHERE once_label.label IS NOT NULL OR once_label.value IS NOT NULL) AS slides,
    count(*) FILTER (WHERE once_label.label IS NULL AND once_label.value IS NULL) AS missing,
    (SELECT count(*) FROM once_label AS again WHERE again.repeats) AS repeated,
    count(*) FILTER (WHERE once_label.is_tied) AS tied,
    label_content(
        bit_xor(hash_of_label(
            slides.slide, once_label.grid_x, once_label.grid_y, once_label.label, once_label.value,
            once_label.probabilities
        )) FILTER (WHERE once_label.label IS NOT NULL OR once_label.value IS NOT NULL),
        count(*) FILTER (WHERE once_label.label IS NOT NULL OR once_label.value IS NOT NULL)
    ) AS content,
FROM once_label
INNER JOIN slides ON once_label.slide_id = slides.slide_id
WHERE NOT once_label.repeats
