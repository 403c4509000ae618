-- list_predicted_tiles: what the run $run says of the tiles of the grid $grid, and where they lie.
--
-- Grain: one row per tile. base_x, base_y, extract_px: left and top edge and side, base pixels.
-- measured: probabilities in the order of the run's classes, entropy and mutual information, as the shortest text
--     that is the same number; NULL for what there is none of.
SELECT
    predictions.slide,
    predictions.tile_id,
    predictions.grid_x,
    predictions.grid_y,
    tile_origin(predictions.grid_x, grid_slides.stride, grids.origin_x) AS base_x,
    tile_origin(predictions.grid_y, grid_slides.stride, grids.origin_y) AS base_y,
    grid_slides.extract_px,
    predictions.predicted AS label,
    list_concat(
        list_transform(runs.classes, LAMBDA name: predictions.probabilities[name]::VARCHAR),
        [predictions.entropy::VARCHAR, predictions.mutual_information::VARCHAR]
    ) AS measured,
FROM predictions
INNER JOIN runs ON predictions.run = runs.run
INNER JOIN slides ON predictions.slide = slides.slide
INNER JOIN grids ON predictions.grid = grids.grid
INNER JOIN grid_slides ON grids.grid_id = grid_slides.grid_id AND slides.slide_id = grid_slides.slide_id
WHERE predictions.run = $run AND predictions.grid = $grid
