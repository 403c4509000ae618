-- merge_tiles: the tiles of the relation chosen_tile (base_x, base_y, extract_px, label), of one slide, made one.
--
-- Grain: one row per label, NULL last. Order: label. outline: well-known binary, base pixels: what the tiles cover,
--     normalised, without points on straight lines.
-- Tiles of a row that touch or overlap become one box first: uniting boxes takes far less than uniting tiles.
WITH followed AS (
    SELECT
        chosen_tile.label,
        chosen_tile.base_x,
        chosen_tile.base_y,
        chosen_tile.extract_px,
        chosen_tile.base_x - lag(chosen_tile.base_x) OVER row_of_tiles <= chosen_tile.extract_px AS goes_on,
    FROM chosen_tile
    WINDOW row_of_tiles AS (PARTITION BY chosen_tile.label, chosen_tile.base_y ORDER BY chosen_tile.base_x)
),

numbered AS (
    SELECT
        followed.label,
        followed.base_x,
        followed.base_y,
        followed.extract_px,
        count_if(coalesce(NOT followed.goes_on, true)) OVER (
            PARTITION BY followed.label, followed.base_y
            ORDER BY followed.base_x
        ) AS box_number,
    FROM followed
),

box AS (
    SELECT
        numbered.label,
        numbered.base_y AS top_y,
        min(numbered.base_x) AS left_x,
        max(numbered.base_x + numbered.extract_px) AS right_x,
        any_value(numbered.base_y + numbered.extract_px) AS bottom_y,
        count(*) AS tiles,
    FROM numbered
    GROUP BY numbered.label, numbered.base_y, numbered.box_number
)

SELECT
    box.label,
    sum(box.tiles)::BIGINT AS tiles,
    ST_AsWKB(
        ST_Normalize(
            ST_SimplifyPreserveTopology(
                ST_Union_Agg(
                    ST_MakeEnvelope(box.left_x, box.top_y, box.right_x, box.bottom_y)
                    ORDER BY box.top_y, box.left_x
                ),
                0
            )
        )
    ) AS outline,
FROM box
GROUP BY box.label
ORDER BY box.label NULLS LAST
