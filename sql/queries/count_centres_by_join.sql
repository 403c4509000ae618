-- count_centres_by_join: how many tile centres lie in ROIs, by the plain spatial join; the reference, and slow.
--
-- Grain: one row. Only the first $slides slides in order of name.
WITH first_slide AS (
    SELECT slides.slide
    FROM slides
    ORDER BY slides.slide
    LIMIT $slides
),

centre AS (
    SELECT
        slides.slide,
        ST_Point(
            tile_centre(tiles.grid_x, grid_slides.stride, grid_slides.extract_px, grids.origin_x),
            tile_centre(tiles.grid_y, grid_slides.stride, grid_slides.extract_px, grids.origin_y)
        ) AS point,
    FROM tiles
    INNER JOIN grids ON tiles.grid_id = grids.grid_id
    INNER JOIN grid_slides ON tiles.grid_id = grid_slides.grid_id AND tiles.slide_id = grid_slides.slide_id
    INNER JOIN slides ON tiles.slide_id = slides.slide_id
    SEMI JOIN first_slide ON slides.slide = first_slide.slide
)

SELECT count(*) AS centres
FROM centre
INNER JOIN rois ON centre.slide = rois.slide AND ST_Intersects(rois.geom, centre.point)
WHERE rois.parent IS NULL
