-- list_export_slides: what a side-car says of the slides of a grid, and what tells that their files are unchanged.
--
-- Grain: one row per slide that the grid lies on. Order: slide.
SELECT
    slides.slide,
    slides.path,
    slides.fingerprint,
    slides.width,
    slides.height,
    slides.mpp,
    coalesce(patients.patient, slides.slide) AS patient,
    patients.site,
    splits.split,
    splits.fold,
    grid_slides.extract_px,
    grid_slides.stride,
    grid_slides.level,
    grid_slides.level_downsample,
    grid_slides.read_px,
    coalesce(slides.background, 'FFFFFF') AS background,
    grid_slides.n_columns,
    grid_slides.n_rows,
    slides.bytes,
    slides.mtime,
FROM grid_slides
INNER JOIN grids ON grid_slides.grid_id = grids.grid_id
INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
LEFT JOIN patients ON slides.slide = patients.slide
LEFT JOIN splits ON coalesce(patients.patient, slides.slide) = splits.patient
WHERE grids.grid = $grid
ORDER BY slides.slide
