-- count_relabelled: the tiles whose label differs between the tables earlier_tile and staged_tile.
--
-- Grain: one row. A tile that is in one of them alone lies in no ROI by the rule of the other, and has no label there.
SELECT count(*) AS tiles,
FROM earlier_tile
FULL OUTER JOIN staged_tile
    ON
        earlier_tile.slide_id = staged_tile.slide_id
        AND earlier_tile.grid_x = staged_tile.grid_x
        AND earlier_tile.grid_y = staged_tile.grid_y
WHERE earlier_tile.label IS DISTINCT FROM staged_tile.label
