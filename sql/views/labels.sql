-- labels: the label of each tile, and all that is asked of tiles together with it.
--
-- Grain: one row per tile of each grid, on the slides whose labelling is up to date.
-- Rule:  label_rule; a tile that the method or an artifact removes has kept = false and no label.
--     Under exclude a tile in ROIs of several labels keeps the name of the smallest, and has no label.
--     A tile that a label set of the rule labels is kept, whatever the method, unless an artifact removes it.
CREATE OR REPLACE VIEW labels AS
WITH judged AS (
    SELECT
        tiles.grid_x,
        tiles.grid_y,
        grids.grid,
        grids.tile_px,
        grids.origin_x,
        grids.origin_y,
        grid_slides.extract_px,
        grid_slides.stride,
        slides.slide,
        tile_winner.coverage,
        tile_winner.roi_id,
        coalesce(tile_winner.n_rois, 0) AS n_rois,
        coalesce(tile_winner.in_conflict, false) AS in_conflict,
        is_kept(
            label_rule.method,
            tile_winner.roi_id IS NOT NULL,
            coalesce(tile_winner.in_artifact, false),
            coalesce(slide_roi_set.has_regions, false)
        ) AS kept_by_rois,
        given_label.slide_id IS NOT NULL AND NOT coalesce(tile_winner.in_artifact, false) AS is_given,
        given_label.place,
        given_label.label AS given_label,
        given_label.label_set_id,
        given_label.probabilities,
        given_label.value,
        label_rule.labels_from,
        measured_tile.brightness,
        measured_tile.saturation,
        measured_tile.white_fraction,
        measured_tile.grey_fraction,
        measured_tile.blur,
        measured_tile.tissue,
        measured_tile.pen,
    FROM tiles
    INNER JOIN labelled ON tiles.grid_id = labelled.grid_id AND tiles.slide_id = labelled.slide_id
    INNER JOIN grids ON tiles.grid_id = grids.grid_id
    INNER JOIN slides ON tiles.slide_id = slides.slide_id
    INNER JOIN grid_slides ON tiles.grid_id = grid_slides.grid_id AND tiles.slide_id = grid_slides.slide_id
    CROSS JOIN label_rule
    LEFT JOIN tile_winner
        ON
            tiles.grid_id = tile_winner.grid_id
            AND tiles.slide_id = tile_winner.slide_id
            AND slides.slide = tile_winner.slide
            AND tiles.grid_x = tile_winner.grid_x
            AND tiles.grid_y = tile_winner.grid_y
    LEFT JOIN given_label
        ON
            tiles.grid_id = given_label.grid_id
            AND tiles.slide_id = given_label.slide_id
            AND slides.slide = given_label.slide
            AND tiles.grid_x = given_label.grid_x
            AND tiles.grid_y = given_label.grid_y
    LEFT JOIN slide_roi_set ON slides.slide = slide_roi_set.slide
    LEFT JOIN measured_tile
        ON
            tiles.grid_id = measured_tile.grid_id
            AND tiles.slide_id = measured_tile.slide_id
            AND slides.slide = measured_tile.slide
            AND tiles.grid_x = measured_tile.grid_x
            AND tiles.grid_y = measured_tile.grid_y
),

sourced AS (
    SELECT
        judged.*,
        rois.roi_name,
        rois.roi_desc,
        rois.label AS roi_label,
        roi_labels_tile(
            CASE WHEN judged.kept_by_rois AND NOT judged.in_conflict THEN rois.label END,
            judged.labels_from,
            CASE WHEN judged.is_given THEN judged.place END
        ) AS by_roi,
    FROM judged
    LEFT JOIN rois ON judged.roi_id = rois.roi_id
)

SELECT
    make_tile_id(
        sourced.slide,
        tile_location(sourced.grid_x, sourced.stride, sourced.extract_px, sourced.origin_x),
        tile_location(sourced.grid_y, sourced.stride, sourced.extract_px, sourced.origin_y)
    ) AS tile_id,
    sourced.slide,
    tile_location(sourced.grid_x, sourced.stride, sourced.extract_px, sourced.origin_x) AS loc_x,
    tile_location(sourced.grid_y, sourced.stride, sourced.extract_px, sourced.origin_y) AS loc_y,
    sourced.grid_x,
    sourced.grid_y,
    sourced.roi_name,
    sourced.roi_desc,
    CASE WHEN sourced.by_roi THEN sourced.roi_label WHEN sourced.is_given THEN sourced.given_label END AS label,
    sourced.coverage,
    sourced.grid,
    coalesce(patients.patient, sourced.slide) AS patient,
    splits.split,
    splits.fold,
    patients.site,
    sourced.kept_by_rois OR sourced.is_given AS kept,
    sourced.n_rois,
    tile_origin(sourced.grid_x, sourced.stride, sourced.origin_x) AS base_x,
    tile_origin(sourced.grid_y, sourced.stride, sourced.origin_y) AS base_y,
    sourced.extract_px,
    sourced.tile_px,
    sourced.brightness,
    sourced.saturation,
    sourced.white_fraction,
    sourced.grey_fraction,
    sourced.blur,
    sourced.tissue,
    sourced.pen,
    CASE WHEN sourced.by_roi THEN 'rois' WHEN sourced.is_given THEN label_sets.name END AS label_from,
    CASE WHEN sourced.is_given THEN sourced.value END AS value,
    CASE
        WHEN sourced.is_given AND NOT sourced.by_roi AND sourced.probabilities IS NOT NULL
            THEN map(label_sets.classes, sourced.probabilities)
    END AS soft,
FROM sourced
LEFT JOIN label_sets ON sourced.label_set_id = label_sets.label_set_id
LEFT JOIN patients ON sourced.slide = patients.slide
LEFT JOIN splits ON coalesce(patients.patient, sourced.slide) = splits.patient;
COMMENT ON VIEW labels IS 'The label of each tile of each grid, by the rule in force (label_rule).';
COMMENT ON COLUMN labels.tile_id IS 'slide-loc_x-loc_y, as Slideflow names tiles; unique in a grid.';
COMMENT ON COLUMN labels.slide IS 'Name of the slide.';
COMMENT ON COLUMN labels.loc_x IS 'Centre of the tile, rounded down, base pixels.';
COMMENT ON COLUMN labels.loc_y IS 'Centre of the tile, rounded down, base pixels.';
COMMENT ON COLUMN labels.grid_x IS 'Column in the grid, from 0.';
COMMENT ON COLUMN labels.grid_y IS 'Row in the grid, from 0.';
COMMENT ON COLUMN labels.roi_name IS 'The ROI that wins the tile; NULL where it is in none.';
COMMENT ON COLUMN labels.roi_desc IS 'Its name, with the names of its holes.';
COMMENT ON COLUMN labels.label IS
'Its label, or a label set''s (of soft labels the likeliest); NULL for none, or where the tile is not kept.';
COMMENT ON COLUMN labels.coverage IS 'Part of the tile that the winning ROI covers, 0 to 1.';
COMMENT ON COLUMN labels.grid IS 'Name of the grid.';
COMMENT ON COLUMN labels.patient IS 'Name of the patient, or of the slide where no patient is given.';
COMMENT ON COLUMN labels.split IS 'Side of the patient: train, val, or a value of the user''s own column.';
COMMENT ON COLUMN labels.fold IS 'Fold of the patient, for splits with folds.';
COMMENT ON COLUMN labels.site IS 'Site of the patient, where one is given.';
COMMENT ON COLUMN labels.kept IS
'True if the method keeps the tile, or a label set labels it, and no artifact removes it.';
COMMENT ON COLUMN labels.n_rois IS 'ROIs that the tile is in, by the rule in force.';
COMMENT ON COLUMN labels.base_x IS 'Left edge of the tile, base pixels.';
COMMENT ON COLUMN labels.base_y IS 'Top edge of the tile, base pixels.';
COMMENT ON COLUMN labels.extract_px IS 'Side of the tile, base pixels.';
COMMENT ON COLUMN labels.tile_px IS 'Side of the tile as the model sees it, pixels.';
COMMENT ON COLUMN labels.brightness IS 'Mean of red, green and blue, 0 to 255; NULL where not measured.';
COMMENT ON COLUMN labels.saturation IS 'Mean saturation (HSV), 0 to 1; NULL where not measured.';
COMMENT ON COLUMN labels.white_fraction IS 'Part of the pixels whose mean is above 230; NULL where not measured.';
COMMENT ON COLUMN labels.grey_fraction IS 'Part of the pixels with a saturation below 0.05; NULL where not measured.';
COMMENT ON COLUMN labels.blur IS 'Variance of the Laplacian, low where blurred or empty; NULL where not measured.';
COMMENT ON COLUMN labels.tissue IS 'Part of the tile in the mask of tissue, 0 to 1; NULL where not measured.';
COMMENT ON COLUMN labels.pen IS 'Part of the pixels with a colour of ink; NULL where not measured.';
COMMENT ON COLUMN labels.label_from IS
'Where the label comes from: rois, or the name of a label set; NULL for no label.';
COMMENT ON COLUMN labels.value IS 'The number that a label set of the rule gives; NULL for none.';
COMMENT ON COLUMN labels.soft IS 'Probability of each class, where the label is the likeliest of soft labels.';
