-- outline_rois: the ROIs that label one slide, as they are drawn over its picture.
--
-- Grain: one row per ROI of the set in force that is no hole; its outline has its holes as inner rings.
-- Order: large ones first, so that small ones are drawn over them.
SELECT
    rois.roi_name,
    rois.label,
    ST_AsGeoJSON(rois.geom) AS outline,
FROM rois
INNER JOIN slide_roi_set ON rois.slide = slide_roi_set.slide AND rois.roi_set = slide_roi_set.roi_set
WHERE rois.slide = $slide AND rois.parent IS NULL
ORDER BY rois.area DESC, rois.roi_name ASC
