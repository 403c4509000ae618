-- find_roi_problems: why ROIs that are staged cannot be added.
--
-- Grain: one row per problem; none where all is well. `other` is the file or reason that it clashes with.
-- Order: file, row.
WITH placed AS (
    SELECT
        staged_roi.*,
        slides.slide IS NULL AS unknown_slide,
        slides.error AS slide_error,
    FROM staged_roi
    LEFT JOIN slides ON staged_roi.slide = slides.slide
),

problem AS (
    -- One row per file and slide is enough where the slide itself is the problem.
    SELECT
        'unknown_slide' AS kind,
        placed.file,
        min(placed.row_no) AS row_no,
        arg_min(placed.place, placed.row_no) AS place,
        placed.slide,
        NULL AS roi_name,
        NULL AS other,
    FROM placed
    WHERE placed.unknown_slide
    GROUP BY placed.file, placed.slide
    UNION ALL
    SELECT
        'slide_error' AS kind,
        placed.file,
        min(placed.row_no) AS row_no,
        arg_min(placed.place, placed.row_no) AS place,
        placed.slide,
        NULL AS roi_name,
        any_value(placed.slide_error) AS other,
    FROM placed
    WHERE placed.slide_error IS NOT NULL
    GROUP BY placed.file, placed.slide
    UNION ALL
    SELECT
        'no_area' AS kind,
        placed.file,
        placed.row_no,
        placed.place,
        placed.slide,
        placed.roi_name,
        NULL AS other,
    FROM placed
    WHERE ST_Area(placed.outline) = 0
    UNION ALL
    SELECT
        'duplicate' AS kind,
        later.file,
        later.row_no,
        later.place,
        later.slide,
        later.roi_name,
        first(earlier.file ORDER BY earlier.file, earlier.row_no) AS other,
    FROM placed AS later
    INNER JOIN placed AS earlier
        ON
            later.roi_set = earlier.roi_set
            AND later.slide = earlier.slide
            AND later.roi_name = earlier.roi_name
            AND earlier.file < later.file
    GROUP BY later.file, later.row_no, later.place, later.slide, later.roi_name
    UNION ALL
    SELECT
        'duplicate' AS kind,
        placed.file,
        placed.row_no,
        placed.place,
        placed.slide,
        placed.roi_name,
        roi_files.path AS other,
    FROM placed
    INNER JOIN rois
        ON placed.roi_set = rois.roi_set AND placed.slide = rois.slide AND placed.roi_name = rois.roi_name
    INNER JOIN roi_files ON rois.roi_file_id = roi_files.roi_file_id
    -- A file that is added again replaces what it gave before.
    WHERE roi_files.path NOT IN (SELECT incoming_file.path FROM incoming_file)
)

SELECT
    problem.kind,
    problem.place,
    problem.slide,
    problem.roi_name,
    problem.other,
FROM problem
ORDER BY problem.file, problem.row_no, problem.kind
