-- find_leaks: what stands on both sides of the split; no row proves that nothing leaks.
--
-- Grain: one row per patient, site (for splits that preserve sites) or file that is on more than one side.
WITH sided AS (
    SELECT
        slides.slide,
        -- Earlier versions kept this part alone.
        split_part(slides.fingerprint, '/', 1) AS fingerprint,
        coalesce(patients.patient, slides.slide) AS patient,
        patients.site,
        splits.split,
        splits.fold,
        coalesce(splits.fold::VARCHAR, splits.split) AS side,
    FROM slides
    LEFT JOIN patients ON slides.slide = patients.slide
    INNER JOIN splits ON coalesce(patients.patient, slides.slide) = splits.patient
)

SELECT
    'patient' AS kind,
    sided.patient AS name,
    string_agg(DISTINCT sided.side, ', ' ORDER BY sided.side) AS sides,
    string_agg(DISTINCT sided.slide, ', ' ORDER BY sided.slide) AS slides,
FROM sided
GROUP BY sided.patient
HAVING count(DISTINCT sided.side) > 1
UNION ALL
SELECT
    'site' AS kind,
    sided.site AS name,
    string_agg(DISTINCT sided.side, ', ' ORDER BY sided.side) AS sides,
    string_agg(DISTINCT sided.slide, ', ' ORDER BY sided.slide) AS slides,
FROM sided
INNER JOIN split_rule ON split_rule.kind = 'site_folds'
GROUP BY sided.site
HAVING count(DISTINCT sided.side) > 1
UNION ALL
SELECT
    'slide file' AS kind,
    sided.fingerprint AS name,
    string_agg(DISTINCT sided.side, ', ' ORDER BY sided.side) AS sides,
    string_agg(DISTINCT sided.slide, ', ' ORDER BY sided.slide) AS slides,
FROM sided
GROUP BY sided.fingerprint
HAVING count(DISTINCT sided.side) > 1
ORDER BY kind, name
