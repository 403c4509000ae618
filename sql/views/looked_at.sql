-- looked_at: the slides that ROI files speak of, with how many ROIs each has; one without has been looked at.
--
-- Grain: one row per (roi_set, slide). left_out: ROIs of the files that lie wholly outside the slide.
CREATE OR REPLACE VIEW looked_at AS
SELECT
    spoken_of.roi_set,
    spoken_of.slide,
    spoken_of.files,
    coalesce(drawn.rois, 0) AS rois,
    spoken_of.left_out,
FROM (
    SELECT
        roi_files.roi_set,
        roi_file_slides.slide,
        count(*) AS files,
        sum(roi_file_slides.left_out)::BIGINT AS left_out,
    FROM roi_file_slides
    INNER JOIN roi_files ON roi_file_slides.roi_file_id = roi_files.roi_file_id
    GROUP BY roi_files.roi_set, roi_file_slides.slide
) AS spoken_of
LEFT JOIN (
    SELECT
        rois.roi_set,
        rois.slide,
        count(*) AS rois,
    FROM rois
    GROUP BY rois.roi_set, rois.slide
) AS drawn ON spoken_of.roi_set = drawn.roi_set AND spoken_of.slide = drawn.slide;
COMMENT ON VIEW looked_at IS 'Slides that ROI files speak of; one of 0 ROIs has been looked at, and has none.';
COMMENT ON COLUMN looked_at.roi_set IS 'Set of ROIs.';
COMMENT ON COLUMN looked_at.slide IS 'Name of the slide.';
COMMENT ON COLUMN looked_at.files IS 'Files that speak of it.';
COMMENT ON COLUMN looked_at.rois IS 'ROIs that it has, holes included.';
COMMENT ON COLUMN looked_at.left_out IS 'ROIs of the files that lie wholly outside the slide and were left out.';
