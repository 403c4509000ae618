-- find_roi_problems: why ROIs that are staged cannot be added.
--
-- Grain: one row per problem; none where all is well. `other` is the file or reason that it clashes with. ROIs that two
--     files name alike are one problem of both files: n_rois of them, of which roi_name is the first.
-- Order: file, row.
WITH problem AS (
    SELECT
        'no_area' AS kind,
        staged_roi.file,
        staged_roi.row_no,
        staged_roi.place,
        staged_roi.slide,
        staged_roi.roi_name,
        NULL AS other,
        1 AS n_rois,
    FROM staged_roi
    WHERE ST_Area(staged_roi.outline) = 0
    UNION ALL
    SELECT
        'duplicate' AS kind,
        later.file,
        min(later.row_no) AS row_no,
        arg_min(later.place, (later.row_no, later.roi_name)) AS place,
        later.slide,
        arg_min(later.roi_name, (later.row_no, later.roi_name)) AS roi_name,
        earlier.file AS other,
        count(*) AS n_rois,
    FROM staged_roi AS later
    INNER JOIN staged_roi AS earlier
        ON
            later.roi_set = earlier.roi_set
            AND later.slide = earlier.slide
            AND later.roi_name = earlier.roi_name
            AND earlier.file < later.file
    GROUP BY later.file, later.slide, earlier.file
)

SELECT
    problem.kind,
    problem.place,
    problem.slide,
    problem.roi_name,
    problem.other,
    problem.n_rois,
FROM problem
ORDER BY problem.file, problem.row_no, problem.kind, problem.other
