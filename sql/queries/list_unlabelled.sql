-- list_unlabelled: the slides of each grid whose tile_rois are missing or out of date.
--
-- Grain: one row per grid and slide that can be used, those that the grid does not lie on yet included.
--     work tells about how many rows the largest step of labelling has: an edge is cut at each line of the grid that it
--     crosses, and a tile that an ROI holds is a pair. Order: grid, slide_id.
WITH unlabelled AS (
    SELECT
        grids.grid_id,
        slides.slide_id,
        grids.grid,
        slides.slide,
        grid_slides.stride,
        (grid_slides.extract_px / grid_slides.stride) ^ 2 AS layers,
    FROM grids
    CROSS JOIN slides
    LEFT JOIN grid_slides ON grids.grid_id = grid_slides.grid_id AND slides.slide_id = grid_slides.slide_id
    ANTI JOIN labelled ON grids.grid_id = labelled.grid_id AND slides.slide_id = labelled.slide_id
    WHERE slides.error IS NULL
)

SELECT
    unlabelled.grid_id,
    unlabelled.slide_id,
    unlabelled.grid,
    unlabelled.slide,
    coalesce(ceil(sum(
        ST_NPoints(rois.geom)
        + greatest(unlabelled.layers, 1)
        * (2 * ST_Perimeter(rois.geom) / unlabelled.stride + rois.area / unlabelled.stride ^ 2)
    )), 0)::BIGINT AS work,
FROM unlabelled
LEFT JOIN rois ON unlabelled.slide = rois.slide AND rois.parent IS NULL
GROUP BY unlabelled.grid_id, unlabelled.slide_id, unlabelled.grid, unlabelled.slide
ORDER BY unlabelled.grid, unlabelled.slide_id
