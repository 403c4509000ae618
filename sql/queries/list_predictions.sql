-- list_predictions: what the run $run says of the slide $slide in the grid $grid.
--
-- Grain: one row per tile, in the order of grid_y, grid_x. given: probabilities, in the order of $classes.
SELECT
    predictions.grid_x,
    predictions.grid_y,
    predictions.predicted,
    list_transform($classes::VARCHAR [], LAMBDA name: predictions.probabilities[name]) AS given,
    predictions.mutual_information,
FROM predictions
WHERE predictions.run = $run AND predictions.grid = $grid AND predictions.slide = $slide
ORDER BY predictions.grid_y, predictions.grid_x
