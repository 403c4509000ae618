-- find_lost_rois: what has become of the ROIs that were written into files, once these are read again.
--
-- Grain: one row per ROI of the relation wanted_roi (slide, root, label, wkb): those that label tiles. The relation
--     written_roi (slide, roi_name, root, is_own, parent) has what the files name: an ROI of the study (is_own), or a
--     part or an inner ring of one. The set 'exported' of the table rois is what was read again.
-- n_parts: ROIs that stand for it now; 0 if none. swallowed, swallowed_by: what of it has become a hole of another
--     ROI, and of which.
-- is_same: together they have its label and its shape, to the point, and its holes are holes of it as before.
-- Order: slide, root.
WITH returned AS (
    SELECT
        written_roi.slide,
        written_roi.root,
        written_roi.roi_name,
        rois.label,
        rois.parent,
        rois.geom,
        around.root AS root_around,
        written_roi.is_own AND (written_roi.parent IS DISTINCT FROM rois.parent) AS is_moved,
    FROM written_roi
    INNER JOIN rois ON written_roi.slide = rois.slide AND written_roi.roi_name = rois.roi_name
    LEFT JOIN written_roi AS around ON rois.slide = around.slide AND rois.parent = around.roi_name
    WHERE rois.roi_set = 'exported'
),

part AS (
    SELECT
        returned.slide,
        returned.root,
        count(*) AS n_parts,
        min(returned.label) AS least_label,
        max(returned.label) AS greatest_label,
        count(returned.label) AS n_labels,
        sum(ST_Area(returned.geom)) AS area,
        CASE count(*)
            WHEN 1 THEN any_value(returned.geom)
            ELSE ST_Union_Agg(returned.geom ORDER BY returned.roi_name)
        END AS geom,
    FROM returned
    WHERE returned.parent IS NULL
    GROUP BY returned.slide, returned.root
),

moved AS (
    SELECT
        returned.slide,
        returned.root,
        arg_min(returned.roi_name, returned.roi_name) FILTER (WHERE returned.root_around <> returned.root) AS swallowed,
        arg_min(returned.root_around, returned.roi_name)
        FILTER (WHERE returned.root_around <> returned.root) AS swallowed_by,
        bool_or(returned.is_moved) AS is_moved,
    FROM returned
    GROUP BY returned.slide, returned.root
),

wanted AS (
    SELECT
        wanted_roi.slide,
        wanted_roi.root,
        wanted_roi.label,
        ST_GeomFromWKB(wanted_roi.wkb) AS geom,
    FROM wanted_roi
)

SELECT
    wanted.slide,
    wanted.root,
    coalesce(part.n_parts, 0) AS n_parts,
    moved.swallowed,
    moved.swallowed_by,
    coalesce(
        NOT moved.is_moved
        AND part.n_labels = CASE WHEN wanted.label IS NULL THEN 0 ELSE part.n_parts END
        AND part.least_label IS NOT DISTINCT FROM wanted.label
        AND part.greatest_label IS NOT DISTINCT FROM wanted.label
        AND CASE WHEN ST_AsWKB(part.geom) = ST_AsWKB(wanted.geom) THEN true ELSE ST_Equals(part.geom, wanted.geom) END
        -- Parts that overlap would have more.
        AND abs(part.area - ST_Area(wanted.geom)) <= 1e-9 * ST_Area(wanted.geom),
        false
    ) AS is_same,
FROM wanted
LEFT JOIN part ON wanted.slide = part.slide AND wanted.root = part.root
LEFT JOIN moved ON wanted.slide = moved.slide AND wanted.root = moved.root
ORDER BY wanted.slide, wanted.root
