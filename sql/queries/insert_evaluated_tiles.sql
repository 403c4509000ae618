-- insert_evaluated_tiles: the tiles of one evaluation, from the frame incoming_tiles, in its order.
--
-- Grain: one row per tile. $classes are the classes in the order of a tile's probabilities.
INSERT INTO evaluated_tiles
SELECT
    $run,
    $evaluation,
    $grid,
    incoming_tiles.slide,
    incoming_tiles.tile_id,
    incoming_tiles.patient,
    incoming_tiles.label,
    incoming_tiles.predicted,
    incoming_tiles.probability,
    incoming_tiles.loss,
    map($classes::VARCHAR [], incoming_tiles.probabilities) AS probabilities,
FROM incoming_tiles
