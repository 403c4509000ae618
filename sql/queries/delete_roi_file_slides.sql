-- delete_roi_file_slides: what the ROI files of the set $roi_set no longer say: all that the files of the relation
--     incoming_file said before, and the pairs of the relation gone_file_slide (path, slide).
DELETE FROM roi_file_slides
USING roi_files
WHERE
    roi_file_slides.roi_file_id = roi_files.roi_file_id
    AND roi_files.roi_set = $roi_set
    AND (
        roi_files.path IN (SELECT incoming_file.path FROM incoming_file)
        OR (roi_files.path, roi_file_slides.slide)
        IN (SELECT (gone_file_slide.path, gone_file_slide.slide) FROM gone_file_slide)
    )
