-- list_export_roi_files: the ROI files whose ROIs decide the labels of some slides.
--
-- Grain: one row per file. Order: roi_set, path. frame, options: NULL where they are usual.
SELECT
    roi_files.path,
    roi_files.format,
    roi_files.holes,
    roi_files.sha256,
    roi_files.roi_set,
    nullif(roi_files.frame, 'level0') AS frame,
    nullif(roi_files.options, '{}') AS options,
FROM roi_files
SEMI JOIN (
    SELECT rois.roi_file_id
    FROM rois
    INNER JOIN slide_roi_set ON rois.slide = slide_roi_set.slide AND rois.roi_set = slide_roi_set.roi_set
    WHERE list_contains($slides, rois.slide)
) AS used ON roi_files.roi_file_id = used.roi_file_id
ORDER BY roi_files.roi_set, roi_files.path
