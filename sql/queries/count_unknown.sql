-- count_unknown: how many tiles of the frame incoming_tiles the study does not have in the grid $grid.
--
-- Grain: one row.
SELECT count(*) AS unknown,
FROM incoming_tiles
ANTI JOIN labels
    ON
        $grid = labels.grid
        AND incoming_tiles.slide = labels.slide
        AND incoming_tiles.tile_id = labels.tile_id
