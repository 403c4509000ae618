-- count_once_labels: what once_label holds, and what tells it from others, as fingerprint_label_set tells it.
--
-- Grain: one row.
SELECT
    count(*) FILTER (WHERE said.is_labelled) AS tiles,
    count(DISTINCT CASE WHEN said.is_labelled THEN said.slide_id END) AS slides,
    count(*) FILTER (WHERE NOT said.is_labelled) AS missing,
    (
        SELECT count(*)
        FROM once_label AS again
        WHERE again.repeats
    ) AS repeated,
    count(*) FILTER (WHERE said.is_tied) AS tied,
    label_content(
        bit_xor(hash_of_label(
            slides.slide, said.grid_x, said.grid_y, said.label, said.value, said.probabilities
        )) FILTER (WHERE said.is_labelled),
        count(*) FILTER (WHERE said.is_labelled)
    ) AS content,
FROM (
    SELECT
        once_label.*,
        once_label.label IS NOT NULL OR once_label.value IS NOT NULL AS is_labelled,
    FROM once_label
    WHERE NOT once_label.repeats
) AS said
INNER JOIN slides ON said.slide_id = slides.slide_id
