-- insert_incoming_labels: the rows of given_piece with the tiles that they name, from laid_slide.
--
-- Grain: one row per row of the piece that says anything. slide_id is NULL, and slide and called say what it names,
--     where that is no tile.
INSERT INTO incoming_label BY NAME
WITH located AS (
    SELECT
        given_piece.*,
        laid_slide.slide_id,
        (given_piece.x - laid_slide.first_x) / laid_slide.step AS place_x,
        (given_piece.y - laid_slide.first_y) / laid_slide.step AS place_y,
        laid_slide.n_columns,
        laid_slide.n_rows,
    FROM given_piece
    LEFT JOIN laid_slide ON given_piece.slide = laid_slide.slide
),

judged AS (
    SELECT
        located.*,
        coalesce(
            located.is_name
            AND located.place_x = floor(located.place_x) AND located.place_y = floor(located.place_y)
            AND located.place_x >= 0 AND located.place_x < located.n_columns
            AND located.place_y >= 0 AND located.place_y < located.n_rows,
            false
        ) AS is_tile,
    FROM located
)

SELECT
    CASE WHEN judged.is_tile THEN judged.slide_id END AS slide_id,
    CASE WHEN judged.is_tile THEN judged.place_x::INTEGER END AS grid_x,
    CASE WHEN judged.is_tile THEN judged.place_y::INTEGER END AS grid_y,
    CASE WHEN NOT judged.is_tile AND judged.is_name THEN judged.slide END AS slide,
    CASE WHEN NOT judged.is_tile THEN judged.called END AS called,
    judged.label,
    judged.value,
    judged.probabilities,
    judged.is_tied,
    judged.wrong,
FROM judged
-- Spreadsheets leave rows of empty cells.
WHERE coalesce(judged.called, nullif(trim(judged.label), ''), judged.value::VARCHAR, judged.wrong) IS NOT NULL
