-- list_uncounted: the labelled slides whose label_counts and roi_counts follow another rule than $rule.
--
-- Grain: one row per grid and slide. counted_by is the other rule; work tells about how many pairs are to be counted.
-- Order: that rule, grid, slide_id.
SELECT
    labelled.grid_id,
    labelled.slide_id,
    grids.grid,
    slides.slide,
    labelled.counted_by,
    coalesce(ceil(sum(rois.area / grid_slides.stride ^ 2)), 0)::BIGINT AS work,
FROM labelled
INNER JOIN grids ON labelled.grid_id = grids.grid_id
INNER JOIN slides ON labelled.slide_id = slides.slide_id
INNER JOIN grid_slides ON labelled.grid_id = grid_slides.grid_id AND labelled.slide_id = grid_slides.slide_id
LEFT JOIN rois ON slides.slide = rois.slide AND rois.parent IS NULL
WHERE labelled.counted_by IS DISTINCT FROM $rule
GROUP BY labelled.grid_id, labelled.slide_id, grids.grid, slides.slide, labelled.counted_by
ORDER BY labelled.counted_by NULLS FIRST, grids.grid, labelled.slide_id
