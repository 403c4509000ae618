-- insert_roi_file_slides: the slides that the ROI files of the set $roi_set speak of, from the relation
--     incoming_file_slide (path, slide, offset_x, offset_y, left_out).
--
-- Grain: one row per file and slide. Order: path, slide.
INSERT INTO roi_file_slides BY NAME
SELECT
    roi_files.roi_file_id,
    incoming_file_slide.slide,
    incoming_file_slide.offset_x,
    incoming_file_slide.offset_y,
    incoming_file_slide.left_out,
FROM incoming_file_slide
INNER JOIN roi_files ON incoming_file_slide.path = roi_files.path
WHERE roi_files.roi_set = $roi_set
ORDER BY incoming_file_slide.path, incoming_file_slide.slide
