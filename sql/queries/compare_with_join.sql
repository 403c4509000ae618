-- compare_with_join: the pairs of verified_tile as they are stored, beside those that a plain spatial join finds.
--
-- Grain: one row per tile of the slide $slide_id ($slide) and the grid $grid_id, and ROI of any set that touches it by
--     either; an ROI that one of them does not have is there without centre and with coverage 0.
-- Source: the contract's own words: ST_Intersects for centres, ST_Area(ST_Intersection) for coverage. Slow; the
--     reference for insert_tile_rois. Each polygon of an ROI by itself: they share no area, and a tile meets few of the
--     hundred thousand that a mask may have. Order: roi_name, grid_y, grid_x.
WITH part AS (
    SELECT
        rois.roi_id,
        unnest(ST_Dump(rois.geom)).geom AS part,
    FROM rois
    WHERE rois.slide = $slide AND rois.parent IS NULL
),

joined AS (
    SELECT
        verified_tile.grid_x,
        verified_tile.grid_y,
        part.roi_id,
        bool_or(ST_Intersects(part.part, verified_tile.centre_point)) AS centre,
        fsum(ST_Area(ST_Intersection(part.part, verified_tile.square)) / verified_tile.side ^ 2) AS coverage,
    FROM verified_tile
    INNER JOIN part ON ST_Intersects(part.part, verified_tile.square)
    GROUP BY verified_tile.grid_x, verified_tile.grid_y, part.roi_id
),

stored AS (
    SELECT
        tile_rois.grid_x,
        tile_rois.grid_y,
        tile_rois.roi_id,
        tile_rois.centre,
        tile_rois.coverage,
    FROM tile_rois
    SEMI JOIN verified_tile
        ON tile_rois.grid_x = verified_tile.grid_x AND tile_rois.grid_y = verified_tile.grid_y
    WHERE tile_rois.grid_id = $grid_id AND tile_rois.slide_id = $slide_id
)

SELECT
    make_tile_id(
        $slide::VARCHAR,
        tile_location(pair.grid_x, grid_slides.stride, grid_slides.extract_px, grids.origin_x),
        tile_location(pair.grid_y, grid_slides.stride, grid_slides.extract_px, grids.origin_y)
    ) AS tile_id,
    rois.roi_set,
    rois.roi_name,
    pair.stored_centre,
    pair.joined_centre,
    pair.stored_coverage,
    pair.joined_coverage,
FROM (
    SELECT
        coalesce(stored.grid_x, joined.grid_x) AS grid_x,
        coalesce(stored.grid_y, joined.grid_y) AS grid_y,
        coalesce(stored.roi_id, joined.roi_id) AS roi_id,
        coalesce(stored.centre, false) AS stored_centre,
        coalesce(joined.centre, false) AS joined_centre,
        coalesce(stored.coverage, 0) AS stored_coverage,
        coalesce(joined.coverage, 0) AS joined_coverage,
    FROM stored
    FULL OUTER JOIN joined
        ON stored.grid_x = joined.grid_x AND stored.grid_y = joined.grid_y AND stored.roi_id = joined.roi_id
) AS pair
CROSS JOIN grid_slides
INNER JOIN grids ON grid_slides.grid_id = grids.grid_id
LEFT JOIN rois ON pair.roi_id = rois.roi_id
WHERE grid_slides.grid_id = $grid_id AND grid_slides.slide_id = $slide_id
ORDER BY rois.roi_name, pair.grid_y, pair.grid_x
