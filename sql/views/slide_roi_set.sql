-- slide_roi_set: the set of ROIs that labels each slide, the first of the rule's sets that the slide has.
--
-- Grain: one row per slide that has ROIs in one of those sets.
-- has_regions: false where all of its ROIs are artifacts or holes; such a slide counts as one without ROIs.
CREATE OR REPLACE VIEW slide_roi_set AS
SELECT
    rois.slide,
    arg_min(rois.roi_set, list_position(label_rule.roi_sets, rois.roi_set)) AS roi_set,
    bool_or(NOT coalesce(list_contains(label_rule.artifact_labels, rois.label), false)) AS has_regions,
FROM rois
CROSS JOIN label_rule
WHERE list_contains(label_rule.roi_sets, rois.roi_set)
GROUP BY rois.slide;
COMMENT ON VIEW slide_roi_set IS 'The set of ROIs that labels each slide.';
COMMENT ON COLUMN slide_roi_set.slide IS 'Name of the slide.';
COMMENT ON COLUMN slide_roi_set.roi_set IS 'The set of ROIs that labels it.';
COMMENT ON COLUMN slide_roi_set.has_regions IS 'False where all of its ROIs are artifacts.';
