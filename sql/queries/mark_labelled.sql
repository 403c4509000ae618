-- mark_labelled: that the pairs of the grid $grid_id and the slides $slide_ids are complete, and from what; that
--     they are counted by the rule $rule.
--
-- Grain: one row per slide. The ROIs of a slide are told by the files that they came from.
INSERT INTO labelled BY NAME
SELECT
    grid_slides.grid_id,
    grid_slides.slide_id,
    sha256(concat_ws(
        '|', grids.grid, slides.fingerprint, slides.width, slides.height, slides.mpp, roi_source.files
    )) AS inputs,
    $rule AS counted_by,
FROM grid_slides
INNER JOIN grids ON grid_slides.grid_id = grids.grid_id
INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
LEFT JOIN (
    SELECT
        rois.slide,
        string_agg(
            DISTINCT concat_ws(
                ':', rois.roi_set, roi_files.holes, roi_files.sha256, roi_files.frame, roi_files.options
            ), '|'
            ORDER BY concat_ws(
                ':', rois.roi_set, roi_files.holes, roi_files.sha256, roi_files.frame, roi_files.options
            )
        ) AS files,
    FROM rois
    INNER JOIN roi_files ON rois.roi_file_id = roi_files.roi_file_id
    GROUP BY rois.slide
) AS roi_source ON slides.slide = roi_source.slide
WHERE grid_slides.grid_id = $grid_id AND list_contains($slide_ids, grid_slides.slide_id)
