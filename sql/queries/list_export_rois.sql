-- list_export_rois: the ROIs of the set $roi_set on the slides $slides, as they are written into files.
--
-- Grain: one row per ROI, holes included. Order: slide, roi_name. outline, geom: well-known binary, base pixels.
SELECT
    rois.slide,
    rois.roi_name,
    rois.roi_desc,
    rois.label,
    rois.parent,
    rois.area * slides.mpp * slides.mpp AS area_um2,
    ST_AsWKB(rois.outline) AS outline,
    ST_AsWKB(rois.geom) AS geom,
FROM rois
INNER JOIN slides ON rois.slide = slides.slide
WHERE rois.roi_set = $roi_set AND list_contains($slides, rois.slide)
ORDER BY rois.slide, rois.roi_name
