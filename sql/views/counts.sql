-- counts: tiles of each slide by label, and their area, as the last labelling counted them.
--
-- Grain: one row per grid, slide and label that a tile of it has; label NULL are the tiles without one.
-- The table label_counts is read, and no tile: sums by label, site, split and so on take no time.
CREATE OR REPLACE VIEW counts AS
SELECT
    grid_on_slide.grid,
    grid_on_slide.slide,
    grid_on_slide.patient,
    grid_on_slide.site,
    grid_on_slide.split,
    grid_on_slide.fold,
    label_counts.label,
    label_counts.tiles,
    label_counts.kept,
    label_counts.tiles * grid_on_slide.tile_mm2 AS area_mm2,
FROM label_counts
INNER JOIN grid_on_slide
    ON label_counts.grid_id = grid_on_slide.grid_id AND label_counts.slide_id = grid_on_slide.slide_id;
COMMENT ON VIEW counts IS 'Tiles of each slide by label, and their area; reads no tile.';
COMMENT ON COLUMN counts.grid IS 'Name of the grid.';
COMMENT ON COLUMN counts.slide IS 'Name of the slide.';
COMMENT ON COLUMN counts.patient IS 'Name of the patient, or of the slide where no patient is given.';
COMMENT ON COLUMN counts.site IS 'Site of the patient, where one is given.';
COMMENT ON COLUMN counts.split IS 'Side of the patient, where there is a split.';
COMMENT ON COLUMN counts.fold IS 'Fold of the patient, for splits with folds.';
COMMENT ON COLUMN counts.label IS 'The label, or NULL.';
COMMENT ON COLUMN counts.tiles IS 'Tiles with it.';
COMMENT ON COLUMN counts.kept IS 'Those of them that the method and the artifacts keep.';
COMMENT ON COLUMN counts.area_mm2 IS 'Area of the tiles, each place once, square millimetres.';
