-- list_qc_slides: the slides that the grid $grid lies on, as they are measured, and what is measured of them already.
--
-- Grain: one row per slide. Order: slide. found has measure, measured_at and settings of each; empty where none is.
WITH measured AS (
    SELECT
        qc_slides.grid_id,
        qc_slides.slide_id,
        list([qc_slides.measure, qc_slides.measured_at, qc_slides.settings] ORDER BY qc_slides.measure) AS found,
    FROM qc_slides
    GROUP BY qc_slides.grid_id, qc_slides.slide_id
)

SELECT
    slides.slide,
    slides.slide_id,
    grids.grid_id,
    slides.path,
    coalesce(slides.background, 'FFFFFF') AS background,
    slides.width,
    slides.height,
    slides.mpp,
    slides.level_widths,
    slides.level_heights,
    slides.level_downsamples,
    slides.bytes,
    slides.fingerprint,
    grid_slides.extract_px,
    grid_slides.stride,
    grid_slides.n_columns,
    grid_slides.n_rows,
    grid_slides.level,
    grid_slides.level_downsample,
    grid_slides.read_px,
    grids.origin_x,
    grids.origin_y,
    grids.tile_px,
    coalesce(measured.found, []) AS found,
FROM grid_slides
INNER JOIN grids ON grid_slides.grid_id = grids.grid_id
INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
LEFT JOIN measured ON grid_slides.grid_id = measured.grid_id AND grid_slides.slide_id = measured.slide_id
WHERE grids.grid = $grid
ORDER BY slides.slide
