-- find_wrong_values: a few rows of incoming_label whose number, or whose probabilities, are none.
--
-- Grain: one row per row, at most $most. Order: slide, grid_y, grid_x. tile: its id, or its place as the table has it.
SELECT
    make_tile_id(
        slides.slide,
        laid_slide.first_x + incoming_label.grid_x * laid_slide.step,
        laid_slide.first_y + incoming_label.grid_y * laid_slide.step
    ) AS tile,
    incoming_label.wrong,
FROM incoming_label
INNER JOIN slides ON incoming_label.slide_id = slides.slide_id
INNER JOIN laid_slide ON incoming_label.slide_id = laid_slide.slide_id
WHERE incoming_label.wrong IS NOT NULL
ORDER BY slides.slide, incoming_label.grid_y, incoming_label.grid_x
LIMIT $most
