-- shuffle_labels: deals the tiles in ROIs anew among their places on each slide, so that labels mean nothing.
--
-- For controls: a network that learns from such labels has learnt by heart, or the split leaks. Each slide keeps
-- its number of tiles of each label. The order is by $seed alone; slideduck label computes the true labels again
-- only where ROIs or slides change, so a study that was shuffled is for nothing else.
WITH held AS (
    SELECT DISTINCT
        tile_rois.grid_id,
        tile_rois.slide_id,
        tile_rois.grid_x,
        tile_rois.grid_y,
    FROM tile_rois
    WHERE tile_rois.centre
),

place AS (
    SELECT
        held.grid_id,
        held.slide_id,
        held.grid_x,
        held.grid_y,
        row_number() OVER (
            PARTITION BY held.grid_id, held.slide_id
            ORDER BY held.grid_y, held.grid_x
        ) AS number,
        row_number() OVER (
            PARTITION BY held.grid_id, held.slide_id
            ORDER BY md5(concat_ws(' ', $seed, held.grid_id, held.slide_id, held.grid_x, held.grid_y))
        ) AS dealt,
    FROM held
)

UPDATE tile_rois
SET grid_x = new_place.grid_x, grid_y = new_place.grid_y
FROM place AS old_place
INNER JOIN place AS new_place
    ON
        old_place.grid_id = new_place.grid_id
        AND old_place.slide_id = new_place.slide_id
        AND old_place.dealt = new_place.number
WHERE
    tile_rois.grid_id = old_place.grid_id
    AND tile_rois.slide_id = old_place.slide_id
    AND tile_rois.grid_x = old_place.grid_x
    AND tile_rois.grid_y = old_place.grid_y
    AND tile_rois.centre
