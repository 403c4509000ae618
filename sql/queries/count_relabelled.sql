-- count_relabelled: the tiles whose label differs between the tables earlier_label and staged_label.
--
-- Grain: one row. A tile that is in one of them alone has a label there and none in the other.
SELECT count(*) AS tiles,
FROM earlier_label
FULL OUTER JOIN staged_label
    ON
        earlier_label.slide_id = staged_label.slide_id
        AND earlier_label.grid_x = staged_label.grid_x
        AND earlier_label.grid_y = staged_label.grid_y
WHERE earlier_label.label IS DISTINCT FROM staged_label.label
