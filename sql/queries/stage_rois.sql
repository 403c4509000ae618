-- stage_rois: the ROIs of the files being added, repaired where they cross themselves.
--
-- Grain: one row per ROI of the relation incoming_roi (file, row_no, place, roi_set, slide, roi_name, label,
--     marked_hole, nested, wkb).
-- Edge rules: a repair keeps polygons only, since points and lines that it leaves have no area and label nothing.
--     Normalised, so that the direction and the first point of a drawing do not matter.
CREATE OR REPLACE TEMP TABLE staged_roi AS
SELECT
    drawn.* EXCLUDE (drawing),
    NOT ST_IsValid(drawn.drawing) AS repaired,
    ST_Normalize(
        CASE
            WHEN ST_IsValid(drawn.drawing) THEN drawn.drawing
            ELSE ST_CollectionExtract(ST_MakeValid(drawn.drawing), 3)
        END
    ) AS outline,
FROM (
    SELECT
        incoming_roi.* EXCLUDE (wkb),
        ST_GeomFromWKB(incoming_roi.wkb) AS drawing,
    FROM incoming_roi
) AS drawn
