-- find_differing_labels: a few tiles of which once_label says different things, and what.
--
-- Grain: one row per tile, at most $most. Order: slide, grid_y, grid_x.
SELECT
    make_tile_id(slides.slide, places.x, places.y) AS tile_id,
    places.said,
FROM (
    SELECT
        once_label.slide_id,
        laid_slide.first_x + once_label.grid_x * laid_slide.step AS x,
        laid_slide.first_y + once_label.grid_y * laid_slide.step AS y,
        list_sort(list(DISTINCT coalesce(
            once_label.probabilities::VARCHAR, once_label.label, once_label.value::VARCHAR, 'no label'
        ))) AS said,
    FROM once_label
    INNER JOIN laid_slide ON once_label.slide_id = laid_slide.slide_id
    GROUP BY ALL
    HAVING bool_or(once_label.differs)
) AS places
INNER JOIN slides ON places.slide_id = slides.slide_id
ORDER BY slides.slide, places.y, places.x
LIMIT $most
