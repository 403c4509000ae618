-- stage_tile_qc: what tile_qc is to hold of one slide: the measures $measures from incoming_qc, the others as they are.
--
-- Grain: one row per tile of incoming_qc.
CREATE OR REPLACE TEMP TABLE merged_tile_qc AS
SELECT
    $grid_id::INTEGER AS grid_id,
    $slide_id::INTEGER AS slide_id,
    incoming_qc.grid_x,
    incoming_qc.grid_y,
    if(list_contains($measures, 'brightness'), incoming_qc.brightness, present.brightness) AS brightness,
    if(list_contains($measures, 'saturation'), incoming_qc.saturation, present.saturation) AS saturation,
    if(
        list_contains($measures, 'white_fraction'), incoming_qc.white_fraction, present.white_fraction
    ) AS white_fraction,
    if(list_contains($measures, 'grey_fraction'), incoming_qc.grey_fraction, present.grey_fraction) AS grey_fraction,
    if(list_contains($measures, 'blur'), incoming_qc.blur, present.blur) AS blur,
    if(list_contains($measures, 'tissue'), incoming_qc.tissue, present.tissue) AS tissue,
    if(list_contains($measures, 'pen'), incoming_qc.pen, present.pen) AS pen,
FROM incoming_qc
LEFT JOIN tile_qc AS present
    ON
        present.grid_id = $grid_id
        AND present.slide_id = $slide_id
        AND incoming_qc.grid_x = present.grid_x
        AND incoming_qc.grid_y = present.grid_y
