-- list_stain_slides: the slides that can be used, as they are fitted, and their fit by the method $method.
--
-- Grain: one row per slide. Order: slide. numbers is NULL where there is no fit of the file and the definition
-- $settings that are in force.
SELECT
    slides.slide,
    slides.slide_id,
    slides.path,
    coalesce(slides.background, 'FFFFFF') AS background,
    slides.width,
    slides.height,
    slides.mpp,
    slides.level_downsamples,
    slides.bytes,
    slides.fingerprint,
    slide_stains.numbers,
    slide_stains.pixels,
    slide_stains.library,
FROM slides
LEFT JOIN slide_stains
    ON
        slides.slide_id = slide_stains.slide_id
        AND slide_stains.method = $method
        AND slide_stains.settings = $settings
        AND slides.fingerprint = slide_stains.fingerprint
        AND slides.mpp = slide_stains.mpp
WHERE slides.error IS NULL
ORDER BY slides.slide
