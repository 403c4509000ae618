-- list_unlabelled: the slides of each grid whose tile_rois are missing or out of date.
--
-- Grain: one row per grid and slide that can be used, those that the grid does not lie on yet included.
--     n_vertices and n_tiles tell how large the work is. Order: grid, slide.
WITH unlabelled AS (
    SELECT
        grids.grid_id,
        slides.slide_id,
        grids.grid,
        slides.slide,
        coalesce(grid_slides.n_columns::BIGINT * grid_slides.n_rows, 0) AS n_tiles,
    FROM grids
    CROSS JOIN slides
    LEFT JOIN grid_slides ON grids.grid_id = grid_slides.grid_id AND slides.slide_id = grid_slides.slide_id
    ANTI JOIN labelled ON grids.grid_id = labelled.grid_id AND slides.slide_id = labelled.slide_id
    WHERE slides.error IS NULL
)

SELECT
    unlabelled.*,
    coalesce(sum(ST_NPoints(rois.geom)), 0)::BIGINT AS n_vertices,
FROM unlabelled
LEFT JOIN rois ON unlabelled.slide = rois.slide AND rois.parent IS NULL
GROUP BY ALL
ORDER BY unlabelled.grid, unlabelled.slide_id
