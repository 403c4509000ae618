-- compare_replaced_rois: staged ROIs beside those of files of the study that have ROIs of the same slide and name.
--
-- Grain: one row per staged file, file of the study and slide that share a name; files of the relation replaced_file,
--     which are added again, are passed over. Order: file, slide, other.
-- n_same: ROIs of the same outline and label; n_changed: of another; n_new: that only the staged file has; n_gone: that
--     only the other has. place, roi_name: the first that both have.
WITH shared AS (
    SELECT
        staged_roi.file,
        staged_roi.slide,
        rois.roi_file_id,
        arg_min(staged_roi.place, (staged_roi.row_no, staged_roi.roi_name)) AS place,
        arg_min(staged_roi.roi_name, (staged_roi.row_no, staged_roi.roi_name)) AS roi_name,
    FROM staged_roi
    INNER JOIN rois
        ON
            staged_roi.roi_set = rois.roi_set
            AND staged_roi.slide = rois.slide
            AND staged_roi.roi_name = rois.roi_name
    INNER JOIN roi_files ON rois.roi_file_id = roi_files.roi_file_id
    ANTI JOIN replaced_file ON roi_files.path = replaced_file.path
    GROUP BY staged_roi.file, staged_roi.slide, rois.roi_file_id
),

later AS (
    SELECT
        shared.file,
        shared.slide,
        shared.roi_file_id,
        staged_roi.roi_name,
        staged_roi.label,
        staged_roi.outline,
    FROM shared
    INNER JOIN staged_roi ON shared.file = staged_roi.file AND shared.slide = staged_roi.slide
),

earlier AS (
    SELECT
        shared.file,
        shared.slide,
        shared.roi_file_id,
        rois.roi_name,
        rois.label,
        rois.outline,
    FROM shared
    INNER JOIN rois ON shared.roi_file_id = rois.roi_file_id AND shared.slide = rois.slide
),

compared AS (
    SELECT
        coalesce(later.file, earlier.file) AS file,
        coalesce(later.slide, earlier.slide) AS slide,
        coalesce(later.roi_file_id, earlier.roi_file_id) AS roi_file_id,
        earlier.roi_name IS NULL AS is_new,
        later.roi_name IS NULL AS is_gone,
        coalesce(later.label = earlier.label, later.label IS NULL AND earlier.label IS NULL)
        AND ST_Equals(later.outline, earlier.outline) AS is_same,
    FROM later
    FULL JOIN earlier
        ON
            later.file = earlier.file
            AND later.slide = earlier.slide
            AND later.roi_file_id = earlier.roi_file_id
            AND later.roi_name = earlier.roi_name
)

SELECT
    compared.file,
    compared.slide,
    any_value(shared.place) AS place,
    any_value(shared.roi_name) AS roi_name,
    roi_files.path AS other,
    count(*) FILTER (WHERE NOT compared.is_new AND NOT compared.is_gone AND compared.is_same) AS n_same,
    count(*) FILTER (WHERE NOT compared.is_new AND NOT compared.is_gone AND NOT compared.is_same) AS n_changed,
    count(*) FILTER (WHERE compared.is_new) AS n_new,
    count(*) FILTER (WHERE compared.is_gone) AS n_gone,
FROM compared
INNER JOIN shared
    ON
        compared.file = shared.file
        AND compared.slide = shared.slide
        AND compared.roi_file_id = shared.roi_file_id
INNER JOIN roi_files ON compared.roi_file_id = roi_files.roi_file_id
GROUP BY compared.file, compared.slide, compared.roi_file_id, roi_files.path
ORDER BY compared.file, compared.slide, roi_files.path
