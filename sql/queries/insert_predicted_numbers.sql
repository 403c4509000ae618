-- insert_predicted_numbers: what the run $run says of the tiles of one slide, from the frame incoming_numbers.
--
-- Grain: one row per tile and number, in the order of grid_y, grid_x, and of $targets, the names of the numbers.
INSERT INTO predicted_numbers
SELECT
    $run,
    $grid,
    $slide,
    incoming_numbers.tile_id,
    incoming_numbers.grid_x,
    incoming_numbers.grid_y,
    $targets[place.place] AS target,
    incoming_numbers.numbers[place.place] AS number,
    incoming_numbers.deviations[place.place] AS deviation,
FROM incoming_numbers
CROSS JOIN (SELECT unnest(generate_series(1, len($targets::VARCHAR []))) AS place) AS place
ORDER BY incoming_numbers.grid_y, incoming_numbers.grid_x, place.place
