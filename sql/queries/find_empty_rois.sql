-- find_empty_rois: ROIs that hold no tile of a grid by the rule in force; too small, or off the slide.
--
-- Grain: one row per grid and ROI. Order: grid, slide, roi_name.
SELECT
    grids.grid,
    ranked_roi.slide,
    ranked_roi.roi_name,
    ranked_roi.label,
    rois.area * slides.mpp * slides.mpp AS area_um2,
FROM ranked_roi
INNER JOIN rois ON ranked_roi.roi_id = rois.roi_id
INNER JOIN slides ON ranked_roi.slide = slides.slide
INNER JOIN labelled ON slides.slide_id = labelled.slide_id
INNER JOIN grids ON labelled.grid_id = grids.grid_id
CROSS JOIN label_rule
WHERE
    NOT EXISTS (
        SELECT tile_rois.roi_id
        FROM tile_rois
        WHERE
            tile_rois.roi_id = ranked_roi.roi_id
            AND tile_rois.grid_id = grids.grid_id
            AND CASE
                WHEN label_rule.rule = 'centre' THEN tile_rois.centre
                ELSE tile_rois.coverage >= label_rule.threshold
            END
    )
ORDER BY grids.grid, ranked_roi.slide, ranked_roi.roi_name
