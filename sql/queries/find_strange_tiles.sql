-- find_strange_tiles: what rows of incoming_label name that is no tile of the grid in laid_slide.
--
-- Grain: one row per slide that is named, as a name that no slide has, or NULL where nothing is named as a tile is.
--     Order: what is no name first, then the slides that the study lacks, then slide.
SELECT
    incoming_label.slide,
    count(*) AS number,
    min(incoming_label.called) AS called,
    any_value(slides.slide_id) IS NOT NULL AS is_known,
    any_value(laid_slide.slide_id) IS NOT NULL AS is_laid,
    any_value(slides.error) AS error,
FROM incoming_label
LEFT JOIN slides ON incoming_label.slide = nfc_normalize(slides.slide)
LEFT JOIN laid_slide ON incoming_label.slide = laid_slide.slide
WHERE incoming_label.slide_id IS NULL
GROUP BY incoming_label.slide
ORDER BY is_known, incoming_label.slide NULLS FIRST
