-- ranked_roi: the ROIs that may label tiles, in the order in which they win a tile.
--
-- Grain: one row per ROI of any set that is no hole; in_force where its set is the one that labels its slide.
-- Ties:  smallest: area, then roi_name. priority: place of the label in the rule's list (labels that are not in it,
--     and ROIs without a label, come last), then as smallest. largest compares coverage first, in held_roi.
CREATE OR REPLACE VIEW ranked_roi AS
SELECT
    rois.roi_id,
    rois.roi_set,
    rois.slide,
    rois.roi_name,
    rois.label,
    coalesce(rois.roi_set = slide_roi_set.roi_set, false) AS in_force,
    coalesce(list_contains(label_rule.artifact_labels, rois.label), false) AS is_artifact,
    row_number() OVER (
        PARTITION BY rois.slide, rois.roi_set
        ORDER BY
            CASE
                WHEN label_rule.overlap = 'priority'
                    THEN coalesce(list_position(label_rule.priority, rois.label), len(label_rule.priority) + 1)
            END,
            rois.area,
            rois.roi_name
    ) AS precedence,
    -- Having no label is a label of its own where labels are compared.
    dense_rank() OVER (PARTITION BY rois.slide, rois.roi_set ORDER BY rois.label NULLS FIRST) AS label_number,
FROM rois
CROSS JOIN label_rule
LEFT JOIN slide_roi_set ON rois.slide = slide_roi_set.slide
WHERE rois.parent IS NULL;
COMMENT ON VIEW ranked_roi IS 'The ROIs that may label tiles, in the order in which they win a tile.';
COMMENT ON COLUMN ranked_roi.roi_id IS 'Key of the ROI.';
COMMENT ON COLUMN ranked_roi.roi_set IS 'Set of ROIs that it belongs to.';
COMMENT ON COLUMN ranked_roi.slide IS 'Name of the slide.';
COMMENT ON COLUMN ranked_roi.roi_name IS 'Name of the ROI.';
COMMENT ON COLUMN ranked_roi.label IS 'Its label, or NULL.';
COMMENT ON COLUMN ranked_roi.in_force IS 'True if its set is the one that labels the slide.';
COMMENT ON COLUMN ranked_roi.is_artifact IS 'True if the rule names its label as an artifact.';
COMMENT ON COLUMN ranked_roi.precedence IS 'Place in the order in which ROIs of the set win a tile, from 1.';
COMMENT ON COLUMN ranked_roi.label_number IS 'Number of the label within slide and set; having none counts as one.';
