-- list_uncounted: the labelled slides whose label_counts and roi_counts follow another rule than that of $rule.
--
-- Grain: one row per grid and slide. n_tiles and n_vertices tell how large the work is. Order: grid, slide.
SELECT
    labelled.grid_id,
    labelled.slide_id,
    grids.grid,
    slides.slide,
    grid_slides.n_columns::BIGINT * grid_slides.n_rows AS n_tiles,
    0 AS n_vertices,
FROM labelled
INNER JOIN grids ON labelled.grid_id = grids.grid_id
INNER JOIN slides ON labelled.slide_id = slides.slide_id
INNER JOIN grid_slides ON labelled.grid_id = grid_slides.grid_id AND labelled.slide_id = grid_slides.slide_id
WHERE labelled.counted_by IS DISTINCT FROM $rule
ORDER BY grids.grid, slides.slide_id
