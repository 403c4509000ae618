-- stage_kept_rois: the ROIs that stay on the slides whose ROIs change, beside those being added.
--
-- Grain: one row per ROI; holes are found anew over all ROIs of a slide, since any may lie in any other. What the files
--     of the relation gone_file_slide (path, slide) gave to those slides does not stay.
INSERT INTO staged_roi BY NAME
SELECT
    rois.roi_set,
    rois.slide,
    rois.roi_name,
    rois.label,
    rois.marked_hole,
    roi_files.holes = 'nested' AS nested,
    rois.repaired,
    rois.changed_area,
    rois.outline,
    roi_files.path AS file,
FROM rois
INNER JOIN roi_files ON rois.roi_file_id = roi_files.roi_file_id
ANTI JOIN gone_file_slide ON roi_files.path = gone_file_slide.path AND rois.slide = gone_file_slide.slide
WHERE
    rois.roi_set = $roi_set
    AND list_contains($slides, rois.slide)
