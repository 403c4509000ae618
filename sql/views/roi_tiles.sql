-- roi_tiles: the ROIs that may label tiles, with the tiles that each holds and wins.
--
-- Grain: one row per grid and ROI of the set in force that is no hole, those without a tile included.
-- The table roi_counts is read, and no tile.
CREATE OR REPLACE VIEW roi_tiles AS
SELECT
    grid_on_slide.grid,
    grid_on_slide.slide,
    rois.roi_name,
    rois.roi_desc,
    rois.roi_set,
    rois.label,
    rois.area * grid_on_slide.pixel_mm2 AS area_mm2,
    roi_counts.held,
    roi_counts.won,
FROM roi_counts
INNER JOIN rois ON roi_counts.roi_id = rois.roi_id
INNER JOIN grid_on_slide
    ON roi_counts.grid_id = grid_on_slide.grid_id AND roi_counts.slide_id = grid_on_slide.slide_id;
COMMENT ON VIEW roi_tiles IS 'The ROIs of the set in force, with the tiles that each holds and wins.';
COMMENT ON COLUMN roi_tiles.grid IS 'Name of the grid.';
COMMENT ON COLUMN roi_tiles.slide IS 'Name of the slide.';
COMMENT ON COLUMN roi_tiles.roi_name IS 'Name of the ROI.';
COMMENT ON COLUMN roi_tiles.roi_desc IS 'Its name, with the names of its holes.';
COMMENT ON COLUMN roi_tiles.roi_set IS 'Set of ROIs that it belongs to.';
COMMENT ON COLUMN roi_tiles.label IS 'Its label, or NULL.';
COMMENT ON COLUMN roi_tiles.area_mm2 IS 'Its area without its holes, square millimetres.';
COMMENT ON COLUMN roi_tiles.held IS 'Tiles that are in it by the rule.';
COMMENT ON COLUMN roi_tiles.won IS 'Tiles whose ROI it is: of those held, the ones that no other ROI wins.';
