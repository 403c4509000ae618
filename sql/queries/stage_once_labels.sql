-- stage_once_labels: the rows of staged_label beside the rows before them: each tile once, and which differ.
--
-- Grain: one row per row of staged_label, in its order. repeats: the row before is of the same tile; differs: and says
--     something else of it.
CREATE OR REPLACE TEMP TABLE once_label AS
SELECT
    neighbour.* EXCLUDE (label_before, value_before, probabilities_before),
    neighbour.repeats AND (
        neighbour.label IS DISTINCT FROM neighbour.label_before
        OR neighbour.value IS DISTINCT FROM neighbour.value_before
        OR neighbour.probabilities IS DISTINCT FROM neighbour.probabilities_before
    ) AS differs,
FROM (
    SELECT
        staged_label.*,
        coalesce(
            staged_label.slide_id = lag(staged_label.slide_id) OVER ()
            AND staged_label.grid_x = lag(staged_label.grid_x) OVER ()
            AND staged_label.grid_y = lag(staged_label.grid_y) OVER (),
            false
        ) AS repeats,
        lag(staged_label.label) OVER () AS label_before,
        lag(staged_label.value) OVER () AS value_before,
        lag(staged_label.probabilities) OVER () AS probabilities_before,
    FROM staged_label
) AS neighbour
