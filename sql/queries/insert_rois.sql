-- insert_rois: the ROIs of nested_roi into the table rois, in an order that does not depend on that of the files.
INSERT INTO rois BY NAME
SELECT
    nested_roi.roi_set,
    nested_roi.slide,
    nested_roi.roi_name,
    nested_roi.roi_desc,
    nested_roi.label,
    nested_roi.parent,
    ST_Area(nested_roi.geom) AS area,
    nested_roi.outline,
    nested_roi.geom,
    nested_roi.marked_hole,
    nested_roi.repaired,
    nested_roi.changed_area,
    -- Bounds tell as much of a rectangle as ST_CoveredBy does, and at once.
    ST_XMin(nested_roi.outline) < 0
    OR ST_YMin(nested_roi.outline) < 0
    OR ST_XMax(nested_roi.outline) > slides.width
    OR ST_YMax(nested_roi.outline) > slides.height AS leaves_slide,
    roi_files.roi_file_id,
FROM nested_roi
INNER JOIN slides ON nested_roi.slide = slides.slide
INNER JOIN roi_files ON nested_roi.roi_set = roi_files.roi_set AND nested_roi.file = roi_files.path
ORDER BY nested_roi.slide, nested_roi.roi_name
