-- find_empty_rois: ROIs that hold no tile of a grid by the rule in force; too small, or off the slide.
--
-- Grain: one row per grid and ROI of the set in force. Order: grid, slide, roi_name.
SELECT
    grids.grid,
    rois.slide,
    rois.roi_name,
    rois.label,
    rois.area * slides.mpp * slides.mpp AS area_um2,
FROM roi_counts
INNER JOIN grids ON roi_counts.grid_id = grids.grid_id
INNER JOIN rois ON roi_counts.roi_id = rois.roi_id
INNER JOIN slides ON roi_counts.slide_id = slides.slide_id
WHERE roi_counts.held = 0
ORDER BY grids.grid, rois.slide, rois.roi_name
