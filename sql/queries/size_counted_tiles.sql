-- size_counted_tiles: the tiles that counted_tiles counts by grid and slide, with their area and whose they are.
--
-- Grain: one row per row of counted_tiles, for the macro tile_counts.
SELECT
    counted_tiles.*,
    grid_on_slide.patient,
    grid_on_slide.site,
    grid_on_slide.split,
    grid_on_slide.fold,
    counted_tiles.tiles * grid_on_slide.tile_mm2 AS area_mm2,
FROM counted_tiles
INNER JOIN grid_on_slide
    ON counted_tiles.grid = grid_on_slide.grid AND counted_tiles.slide = grid_on_slide.slide
