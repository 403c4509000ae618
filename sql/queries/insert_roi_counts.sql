-- insert_roi_counts: tiles of each ROI of the slides $slide_ids of the grid $grid_id, by the rule in force.
--
-- Grain: one row per ROI of the set in force that is no hole, those without a tile included. Source: staged_winner.
INSERT INTO roi_counts
WITH won AS (
    SELECT
        staged_winner.roi_id,
        sum(staged_winner.tiles)::BIGINT AS tiles,
    FROM staged_winner
    GROUP BY staged_winner.roi_id
),

held AS (
    SELECT
        held_roi.roi_id,
        count(*) AS tiles,
    FROM held_roi
    WHERE
        held_roi.grid_id = $grid_id
        AND held_roi.slide_id BETWEEN list_min($slide_ids) AND list_max($slide_ids)
    GROUP BY held_roi.roi_id
)

SELECT
    grid_slides.grid_id,
    grid_slides.slide_id,
    ranked_roi.roi_id,
    coalesce(held.tiles, 0) AS held,
    coalesce(won.tiles, 0) AS won,
FROM grid_slides
INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
INNER JOIN ranked_roi ON slides.slide = ranked_roi.slide
LEFT JOIN held ON ranked_roi.roi_id = held.roi_id
LEFT JOIN won ON ranked_roi.roi_id = won.roi_id
WHERE
    grid_slides.grid_id = $grid_id
    AND list_contains($slide_ids, grid_slides.slide_id)
    AND ranked_roi.in_force
ORDER BY grid_slides.slide_id, ranked_roi.roi_id
