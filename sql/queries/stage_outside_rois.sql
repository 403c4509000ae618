-- stage_outside_rois: the ROIs of staged_roi that lie wholly outside their slide.
--
-- Grain: one row per such ROI, with the extent of its outline and the number of ROIs of its file.
-- Edge rules: one that only touches the slide's edge is outside. One that is a hole of an ROI that does reach into the
--     slide is not here: it stays with that ROI, whose area would be another without it.
CREATE OR REPLACE TEMP TABLE outside_roi AS
WITH placed AS (
    SELECT
        staged_roi.*,
        slides.width,
        slides.height,
        ST_XMin(staged_roi.outline) AS x_min,
        ST_XMax(staged_roi.outline) AS x_max,
        ST_YMin(staged_roi.outline) AS y_min,
        ST_YMax(staged_roi.outline) AS y_max,
        count(*) OVER (PARTITION BY staged_roi.file) AS n_rois,
    FROM staged_roi
    INNER JOIN slides ON staged_roi.slide = slides.slide
    WHERE slides.error IS NULL AND NOT ST_IsEmpty(staged_roi.outline)
),

told AS (
    SELECT
        placed.*,
        placed.x_min < 0 OR placed.y_min < 0
        OR placed.x_max > placed.width OR placed.y_max > placed.height AS leaves,
        CASE
            WHEN
                placed.x_min >= placed.width OR placed.y_min >= placed.height
                OR placed.x_max <= 0 OR placed.y_max <= 0
                THEN true
            WHEN
                placed.x_min >= 0 AND placed.y_min >= 0
                AND placed.x_max <= placed.width AND placed.y_max <= placed.height
                THEN false
            ELSE NOT ST_Intersects(placed.outline, ST_MakeEnvelope(0, 0, placed.width, placed.height))
        END AS is_outside,
    FROM placed
)

SELECT
    told.file,
    told.row_no,
    told.place,
    told.slide,
    told.roi_name,
    told.x_min,
    told.x_max,
    told.y_min,
    told.y_max,
    told.width,
    told.height,
    told.n_rois,
FROM told
ANTI JOIN told AS around
    ON
        told.roi_set = around.roi_set
        AND told.slide = around.slide
        AND told.label IS NOT DISTINCT FROM around.label
        AND told.nested = around.nested
        AND told.x_min < around.x_max
        AND told.x_max > around.x_min
        AND told.y_min < around.y_max
        AND told.y_max > around.y_min
        AND NOT around.is_outside
        -- Nothing that lies wholly in the slide reaches one outside: few are left to compare with.
        AND around.leaves
        AND CASE
            WHEN told.nested THEN ST_Within(told.outline, around.outline)
            ELSE told.marked_hole AND NOT around.marked_hole AND ST_Intersects(told.outline, around.outline)
        END
WHERE told.is_outside
