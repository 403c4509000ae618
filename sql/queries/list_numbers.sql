-- list_numbers: what the run $run says of the slide $slide in the grid $grid, where that is numbers.
--
-- Grain: one row per tile, in the order of grid_y, grid_x. given: numbers; deviations: theirs, NULL where there are
--     none; both in the order of $targets.
SELECT
    predicted_numbers.grid_x,
    predicted_numbers.grid_y,
    list(
        predicted_numbers.number
        ORDER BY list_position($targets::VARCHAR [], predicted_numbers.target)
    ) AS given,
    CASE WHEN count(predicted_numbers.deviation) = count(*) THEN list(
        predicted_numbers.deviation
        ORDER BY list_position($targets::VARCHAR [], predicted_numbers.target)
    ) END AS deviations,
FROM predicted_numbers
WHERE
    predicted_numbers.run = $run
    AND predicted_numbers.grid = $grid
    AND predicted_numbers.slide = $slide
    AND list_contains($targets::VARCHAR [], predicted_numbers.target)
GROUP BY predicted_numbers.grid_x, predicted_numbers.grid_y
ORDER BY predicted_numbers.grid_y, predicted_numbers.grid_x
