-- insert_own_rois: ROIs as a study holds them, from the relation own_roi, into the set $roi_set of another one.
--
-- Grain: one row per ROI, holes included. Order: slide, roi_name.
INSERT INTO rois BY NAME
SELECT
    roi_files.roi_set,
    own_roi.slide,
    own_roi.roi_name,
    own_roi.roi_desc,
    own_roi.label,
    own_roi.parent,
    ST_Area(ST_GeomFromWKB(own_roi.geom)) AS area,
    ST_GeomFromWKB(own_roi.outline) AS outline,
    ST_GeomFromWKB(own_roi.geom) AS geom,
    roi_files.roi_file_id,
FROM own_roi
CROSS JOIN roi_files
WHERE roi_files.roi_set = $roi_set
ORDER BY own_roi.slide, own_roi.roi_name
