-- count_patient_labels: labelled tiles of each patient, for balancing a split.
--
-- Grain: one row per patient and label; a patient without labelled tiles has one row with label NULL.
-- site: NULL where a patient has none, or where none is given. Order: patient, site, label.
SELECT
    coalesce(patients.patient, slides.slide) AS patient,
    patients.site,
    counted.label,
    sum(coalesce(counted.tiles, 0))::BIGINT AS tiles,
FROM slides
LEFT JOIN patients ON slides.slide = patients.slide
LEFT JOIN (
    SELECT
        labels.slide,
        labels.label,
        count(*) AS tiles,
    FROM labels
    WHERE labels.label IS NOT NULL
    GROUP BY labels.slide, labels.label
) AS counted ON slides.slide = counted.slide
WHERE slides.error IS NULL
GROUP BY ALL
ORDER BY patient, patients.site NULLS FIRST, counted.label NULLS FIRST
