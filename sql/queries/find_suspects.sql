-- find_suspects: what are two patients of the split by name, on different sides, and may well be one.
--
-- Grain: one row per TCGA patient's barcode that slides of several patients begin with, and per spelling that several
-- patients share but for case, spaces and leading zeros, where these stand on more than one side. Order: kind, name.
WITH sided AS (
    SELECT
        slides.slide,
        splits.patient,
        coalesce(splits.fold::VARCHAR, splits.split) AS side,
        regexp_extract(upper(slides.slide), '^(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?:$|[-_.])', 1) AS barcode,
        regexp_replace(
            lower(trim(regexp_replace(splits.patient, '\s+', ' ', 'g'))), '(^|[^0-9])0+([0-9])', '\1\2', 'g'
        ) AS spelling,
    FROM slides
    LEFT JOIN patients ON slides.slide = patients.slide
    INNER JOIN splits ON coalesce(patients.patient, slides.slide) = splits.patient
)

SELECT
    'barcode' AS kind,
    sided.barcode AS name,
    list(DISTINCT sided.patient ORDER BY sided.patient) AS patients,
    list(DISTINCT sided.slide ORDER BY sided.slide) AS slides,
    list(DISTINCT sided.side ORDER BY sided.side) AS sides,
FROM sided
WHERE sided.barcode <> ''
GROUP BY sided.barcode
HAVING count(DISTINCT sided.side) > 1
UNION ALL
SELECT
    'spelling' AS kind,
    sided.spelling AS name,
    list(DISTINCT sided.patient ORDER BY sided.patient) AS patients,
    list(DISTINCT sided.slide ORDER BY sided.slide) AS slides,
    list(DISTINCT sided.side ORDER BY sided.side) AS sides,
FROM sided
GROUP BY sided.spelling
HAVING count(DISTINCT sided.side) > 1
ORDER BY kind, name
