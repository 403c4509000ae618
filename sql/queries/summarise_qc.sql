-- summarise_qc: what is measured of the tiles of the grid $grid.
--
-- Grain: one row per measure that some slide has. Order: that of the columns of tile_qc. slides counts those that have
-- it, also such as are smaller than a tile; measured_at lists where it was taken from.
WITH value AS (
    UNPIVOT (
        SELECT
            tile_qc.brightness,
            tile_qc.saturation,
            tile_qc.white_fraction,
            tile_qc.grey_fraction,
            tile_qc.blur,
            tile_qc.tissue,
            tile_qc.pen,
        FROM tile_qc
        INNER JOIN grids ON tile_qc.grid_id = grids.grid_id
        WHERE grids.grid = $grid
    )
    ON brightness, saturation, white_fraction, grey_fraction, blur, tissue, pen
    INTO NAME measure VALUE number
),

spread AS (
    SELECT
        value.measure,
        count(*) AS tiles,
        min(value.number) AS least,
        median(value.number) AS median,
        avg(value.number) AS mean,
        max(value.number) AS greatest,
    FROM value
    GROUP BY value.measure
),

taken AS (
    SELECT
        qc_slides.measure,
        count(*) AS slides,
        string_agg(DISTINCT qc_slides.measured_at, ', ' ORDER BY qc_slides.measured_at) AS measured_at,
    FROM qc_slides
    INNER JOIN grids ON qc_slides.grid_id = grids.grid_id
    WHERE grids.grid = $grid
    GROUP BY qc_slides.measure
)

SELECT
    taken.measure,
    taken.measured_at,
    taken.slides,
    coalesce(spread.tiles, 0) AS tiles,
    spread.least,
    spread.median,
    spread.mean,
    spread.greatest,
FROM taken
LEFT JOIN spread ON taken.measure = spread.measure
ORDER BY
    list_position(
        ['brightness', 'saturation', 'white_fraction', 'grey_fraction', 'blur', 'tissue', 'pen'], taken.measure
    )
