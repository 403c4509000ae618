-- find_changed_holes: the ROIs that are holes either in nested_roi or in the table rois, and not in both.
--
-- Grain: one row per ROI. is_hole: whether it is one in nested_roi. Order: slide, roi_name.
SELECT
    nested_roi.slide,
    nested_roi.roi_name,
    nested_roi.parent IS NOT NULL AS is_hole,
FROM nested_roi
INNER JOIN rois
    ON
        nested_roi.roi_set = rois.roi_set
        AND nested_roi.slide = rois.slide
        AND nested_roi.roi_name = rois.roi_name
WHERE (nested_roi.parent IS NULL) <> (rois.parent IS NULL)
ORDER BY nested_roi.slide, nested_roi.roi_name
