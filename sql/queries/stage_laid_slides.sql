-- stage_laid_slides: how the grid $grid lies on its slides, in the coordinates that a table of labels counts in.
--
-- Grain: one row per slide, by its name in NFC. $coordinates: loc, the tile's centre rounded down; base, its top left
--     corner; grid, its column and row.
CREATE OR REPLACE TEMP TABLE laid_slide AS
SELECT
    nfc_normalize(slides.slide) AS slide,
    slides.slide_id,
    grid_slides.n_columns,
    grid_slides.n_rows,
    CASE WHEN $coordinates = 'grid' THEN 1 ELSE grid_slides.stride END AS step,
    CASE $coordinates
        WHEN 'loc' THEN tile_location(0, grid_slides.stride, grid_slides.extract_px, grids.origin_x)
        WHEN 'base' THEN grids.origin_x
        ELSE 0
    END AS first_x,
    CASE $coordinates
        WHEN 'loc' THEN tile_location(0, grid_slides.stride, grid_slides.extract_px, grids.origin_y)
        WHEN 'base' THEN grids.origin_y
        ELSE 0
    END AS first_y,
FROM grid_slides
INNER JOIN grids ON grid_slides.grid_id = grids.grid_id
INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
WHERE grids.grid = $grid
