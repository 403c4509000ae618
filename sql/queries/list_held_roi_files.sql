-- list_held_roi_files: what a study knows of the ROI files of the set $roi_set.
--
-- Grain: one row per file. Order: path. slides: those that it speaks of, in order of name.
SELECT
    roi_files.path,
    roi_files.format,
    roi_files.holes,
    roi_files.sha256,
    roi_files.frame,
    roi_files.options,
    roi_files.reader,
    coalesce(
        list(roi_file_slides.slide ORDER BY roi_file_slides.slide) FILTER (WHERE roi_file_slides.slide IS NOT NULL), []
    ) AS slides,
FROM roi_files
LEFT JOIN roi_file_slides ON roi_files.roi_file_id = roi_file_slides.roi_file_id
WHERE roi_files.roi_set = $roi_set
GROUP BY ALL
ORDER BY roi_files.path
