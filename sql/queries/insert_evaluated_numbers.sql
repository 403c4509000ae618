-- insert_evaluated_numbers: the tiles of one evaluation, from the frame incoming_tiles, in its order.
--
-- Grain: one row per tile and number. $targets are the names of the numbers in the order of a tile's.
INSERT INTO evaluated_numbers
SELECT
    $run,
    $evaluation,
    $grid,
    incoming_tiles.slide,
    incoming_tiles.tile_id,
    incoming_tiles.patient,
    $targets[place.place] AS target,
    incoming_tiles.observed[place.place] AS observed,
    incoming_tiles.numbers[place.place] AS number,
FROM incoming_tiles
CROSS JOIN (SELECT unnest(generate_series(1, len($targets::VARCHAR []))) AS place) AS place
