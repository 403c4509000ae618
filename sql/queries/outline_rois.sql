-- outline_rois: the ROIs that label one slide, as they are drawn over its picture.
--
-- Grain: one row per ROI of the set in force that is no hole; its outline has its holes as inner rings.
-- Order: large ones first, so that small ones are drawn over them.
SELECT
    rois.roi_name,
    rois.label,
    ranked_roi.is_artifact,
    rois.leaves_slide,
    ST_AsGeoJSON(rois.geom) AS outline,
FROM ranked_roi
INNER JOIN rois ON ranked_roi.roi_id = rois.roi_id
WHERE ranked_roi.slide = $slide AND ranked_roi.in_force
ORDER BY rois.area DESC, rois.roi_name ASC
