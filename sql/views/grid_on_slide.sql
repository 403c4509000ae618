-- grid_on_slide: how each grid lies on each slide, with what tiles are told apart by, and the area of a tile.
--
-- Grain: one row per grid and slide on which it lies.
-- Area:  where tiles overlap, the part of stride x stride base pixels that is a tile's own; at most the tile.
--     Microns per pixel are those along x, as everywhere.
CREATE OR REPLACE VIEW grid_on_slide AS
SELECT
    grid_slides.grid_id,
    grid_slides.slide_id,
    grids.grid,
    slides.slide,
    coalesce(patients.patient, slides.slide) AS patient,
    patients.site,
    splits.split,
    splits.fold,
    grid_slides.extract_px,
    grid_slides.stride,
    grids.origin_x,
    grids.origin_y,
    grid_slides.n_columns::BIGINT * grid_slides.n_rows AS tiles,
    slides.mpp * slides.mpp / 1e6 AS pixel_mm2,
    least(grid_slides.stride, grid_slides.extract_px) ** 2 * slides.mpp * slides.mpp / 1e6 AS tile_mm2,
FROM grid_slides
INNER JOIN grids ON grid_slides.grid_id = grids.grid_id
INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
LEFT JOIN patients ON slides.slide = patients.slide
LEFT JOIN splits ON coalesce(patients.patient, slides.slide) = splits.patient;
COMMENT ON VIEW grid_on_slide IS 'How each grid lies on each slide, with what tiles are told apart by.';
COMMENT ON COLUMN grid_on_slide.grid_id IS 'The grid.';
COMMENT ON COLUMN grid_on_slide.slide_id IS 'The slide.';
COMMENT ON COLUMN grid_on_slide.grid IS 'Name of the grid.';
COMMENT ON COLUMN grid_on_slide.slide IS 'Name of the slide.';
COMMENT ON COLUMN grid_on_slide.patient IS 'Name of the patient, or of the slide where no patient is given.';
COMMENT ON COLUMN grid_on_slide.site IS 'Site of the patient, where one is given.';
COMMENT ON COLUMN grid_on_slide.split IS 'Side of the patient, where there is a split.';
COMMENT ON COLUMN grid_on_slide.fold IS 'Fold of the patient, for splits with folds.';
COMMENT ON COLUMN grid_on_slide.extract_px IS 'Side of a tile, base pixels.';
COMMENT ON COLUMN grid_on_slide.stride IS 'From one tile to the next, base pixels.';
COMMENT ON COLUMN grid_on_slide.origin_x IS 'Left edge of column 0, base pixels.';
COMMENT ON COLUMN grid_on_slide.origin_y IS 'Top edge of row 0, base pixels.';
COMMENT ON COLUMN grid_on_slide.tiles IS 'Tiles of the grid on the slide.';
COMMENT ON COLUMN grid_on_slide.pixel_mm2 IS 'Area of a base pixel, square millimetres.';
COMMENT ON COLUMN grid_on_slide.tile_mm2 IS 'Area that is a tile''s own, square millimetres.';
