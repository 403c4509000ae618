-- list_slides_of_grid: the slides that the grid $grid lies on, and how, base pixels.
--
-- Grain: one row per slide of the grid, in the order of their names.
SELECT
    slides.slide,
    slides.path,
    slides.bytes,
    slides.fingerprint,
    coalesce(slides.background, 'FFFFFF') AS background,
    slides.width,
    slides.height,
    slides.mpp,
    grids.tile_px,
    grid_slides.extract_px,
    grid_slides.stride,
    grid_slides.n_columns,
    grid_slides.n_rows,
    grid_slides.level,
    grid_slides.level_downsample,
    grid_slides.read_px,
FROM grid_slides
INNER JOIN grids ON grid_slides.grid_id = grids.grid_id
INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
WHERE grids.grid = $grid
ORDER BY slides.slide
