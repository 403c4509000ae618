-- label_areas: the area of each label on each slide, from the outlines themselves, whatever the grid.
--
-- Grain: one row per slide and label of the ROIs of the set in force; label NULL are the ROIs without one.
-- drawn_mm2:   the areas of the ROIs added up, holes taken out: a place in two of them counts twice, and what
--     lies off the slide counts.
-- covered_mm2: the area of the slide that lies in any of them: each place once, nothing off the slide.
CREATE OR REPLACE VIEW label_areas AS
SELECT
    slides.slide,
    coalesce(patients.patient, slides.slide) AS patient,
    patients.site,
    label_area.label,
    label_area.rois,
    label_area.drawn_px * slides.mpp * slides.mpp / 1e6 AS drawn_mm2,
    ST_Area(ST_Intersection(label_area.covered, ST_MakeEnvelope(0, 0, slides.width, slides.height)))
    * slides.mpp * slides.mpp / 1e6 AS covered_mm2,
FROM (
    SELECT
        rois.slide,
        rois.label,
        count(*) AS rois,
        -- In the order of names, so that the last digits are the same whatever the order of files.
        sum(rois.area ORDER BY rois.roi_name) AS drawn_px,
        ST_Union_Agg(rois.geom ORDER BY rois.roi_name) AS covered,
    FROM rois
    INNER JOIN slide_roi_set ON rois.slide = slide_roi_set.slide AND rois.roi_set = slide_roi_set.roi_set
    WHERE rois.parent IS NULL
    GROUP BY rois.slide, rois.label
) AS label_area
INNER JOIN slides ON label_area.slide = slides.slide
LEFT JOIN patients ON slides.slide = patients.slide;
COMMENT ON VIEW label_areas IS 'The area of each label on each slide, from the outlines of the set in force.';
COMMENT ON COLUMN label_areas.slide IS 'Name of the slide.';
COMMENT ON COLUMN label_areas.patient IS 'Name of the patient, or of the slide where no patient is given.';
COMMENT ON COLUMN label_areas.site IS 'Site of the patient, where one is given.';
COMMENT ON COLUMN label_areas.label IS 'The label, or NULL.';
COMMENT ON COLUMN label_areas.rois IS 'ROIs with it, holes not counted.';
COMMENT ON COLUMN label_areas.drawn_mm2 IS 'Their areas added up, square millimetres.';
COMMENT ON COLUMN label_areas.covered_mm2 IS 'Area of the slide that they cover, each place once, square millimetres.';
