-- list_predicted_numbers: what the run $run says of the tiles of the grid $grid, and where they lie.
--
-- Grain: one row per tile. base_x, base_y, extract_px: left and top edge and side, base pixels. label: none.
-- measured: the numbers and then their deviations, both in the order of the run's targets, as the shortest text that is
--     the same number; NULL for what there is none of.
SELECT
    tile.slide,
    tile.tile_id,
    tile.grid_x,
    tile.grid_y,
    tile_origin(tile.grid_x, grid_slides.stride, grids.origin_x) AS base_x,
    tile_origin(tile.grid_y, grid_slides.stride, grids.origin_y) AS base_y,
    grid_slides.extract_px,
    NULL::VARCHAR AS label,
    list_concat(
        list_transform(runs.classes, LAMBDA name: tile.numbers[name]::VARCHAR),
        list_transform(runs.classes, LAMBDA name: tile.deviations[name]::VARCHAR)
    ) AS measured,
FROM (
    SELECT
        predicted_numbers.run,
        predicted_numbers.grid,
        predicted_numbers.slide,
        predicted_numbers.tile_id,
        predicted_numbers.grid_x,
        predicted_numbers.grid_y,
        map_from_entries(list((predicted_numbers.target, predicted_numbers.number))) AS numbers,
        map_from_entries(list((predicted_numbers.target, predicted_numbers.deviation))) AS deviations,
    FROM predicted_numbers
    WHERE predicted_numbers.run = $run AND predicted_numbers.grid = $grid
    GROUP BY ALL
) AS tile
INNER JOIN runs ON tile.run = runs.run
INNER JOIN slides ON tile.slide = slides.slide
INNER JOIN grids ON tile.grid = grids.grid
INNER JOIN grid_slides ON grids.grid_id = grid_slides.grid_id AND slides.slide_id = grid_slides.slide_id
