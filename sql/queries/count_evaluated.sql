-- count_evaluated: how the tiles of the evaluation $evaluation of the run $run stand to the study as it is now.
--
-- Grain: one row. errors: tiles predicted to be of another class than their label. unknown: tiles that the study does
--     not have. relabelled: tiles to which the study gives another label now, or none.
SELECT
    count(*) FILTER (WHERE evaluated_tiles.predicted <> evaluated_tiles.label) AS errors,
    count(*) FILTER (WHERE labels.tile_id IS NULL) AS unknown,
    count(*) FILTER (
        WHERE labels.tile_id IS NOT NULL AND labels.label IS DISTINCT FROM evaluated_tiles.label
    ) AS relabelled,
FROM evaluated_tiles
LEFT JOIN labels
    ON
        evaluated_tiles.grid = labels.grid
        AND evaluated_tiles.slide = labels.slide
        AND evaluated_tiles.tile_id = labels.tile_id
WHERE evaluated_tiles.run = $run AND evaluated_tiles.evaluation = $evaluation
