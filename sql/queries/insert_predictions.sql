-- insert_predictions: what the run $run says of the tiles of one slide, from the frame incoming_predictions.
--
-- Grain: one row per tile, in the order of grid_y, grid_x. $classes are the classes or labels in order.
INSERT INTO predictions
SELECT
    $run,
    $grid,
    $slide,
    incoming_predictions.tile_id,
    incoming_predictions.grid_x,
    incoming_predictions.grid_y,
    incoming_predictions.predicted,
    incoming_predictions.probability,
    map($classes::VARCHAR [], incoming_predictions.probabilities) AS probabilities,
    incoming_predictions.entropy,
    incoming_predictions.mutual_information,
FROM incoming_predictions
ORDER BY incoming_predictions.grid_y, incoming_predictions.grid_x
