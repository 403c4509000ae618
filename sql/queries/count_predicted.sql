-- count_predicted: how many tiles of each slide the run $run has predicted in the grid $grid.
--
-- Grain: one row per slide that has any.
SELECT
    predictions.slide,
    count(*) AS tiles,
FROM predictions
WHERE predictions.run = $run AND predictions.grid = $grid
GROUP BY predictions.slide
UNION ALL
SELECT
    predicted_numbers.slide,
    count(DISTINCT predicted_numbers.tile_id) AS tiles,
FROM predicted_numbers
WHERE predicted_numbers.run = $run AND predicted_numbers.grid = $grid
GROUP BY predicted_numbers.slide
