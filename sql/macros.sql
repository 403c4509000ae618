-- macros: the contract's arithmetic on tiles, for views and for users; the same as engine/grid.py.

CREATE OR REPLACE MACRO tile_origin(grid_xy, stride, origin) AS origin + grid_xy * stride;

CREATE OR REPLACE MACRO tile_location(grid_xy, stride, extract_px, origin) AS
origin + grid_xy * stride + extract_px // 2;

CREATE OR REPLACE MACRO tile_centre(grid_xy, stride, extract_px, origin) AS
origin + grid_xy * stride + extract_px / 2;

CREATE OR REPLACE MACRO clamp(value, low, high) AS least(greatest(value, low), high);

CREATE OR REPLACE MACRO make_tile_id(slide, loc_x, loc_y) AS
slide || '-' || loc_x || '-' || loc_y;

-- What a tile id says: text that is none gives NULL, or what make_tile_id does not make the same text of.
CREATE OR REPLACE MACRO slide_of_tile_id(tile_id) AS
left(tile_id, length(tile_id) - length(split_part(tile_id, '-', -1)) - length(split_part(tile_id, '-', -2)) - 2);

CREATE OR REPLACE MACRO x_of_tile_id(tile_id) AS
split_part(tile_id, '-', -2);

CREATE OR REPLACE MACRO y_of_tile_id(tile_id) AS
split_part(tile_id, '-', -1);

-- What tells the rows of label sets apart: a hash of each, and the fingerprint of many, whatever their order.
CREATE OR REPLACE MACRO hash_of_label(slide, grid_x, grid_y, label, value, probabilities) AS
md5_number(concat_ws(chr(31), slide, grid_x, grid_y, label, value, array_to_string(probabilities, ',')));

CREATE OR REPLACE MACRO label_content(row_hash, n_rows) AS
n_rows || ':' || coalesce(row_hash, 0);

-- Whether the method keeps a tile: in_roi and in_artifact are of the tile, has_regions of its slide.
CREATE OR REPLACE MACRO is_kept(method, in_roi, in_artifact, has_regions) AS
NOT in_artifact
AND CASE method
    WHEN 'ignore' THEN true
    WHEN 'inside' THEN in_roi
    WHEN 'outside' THEN NOT in_roi
    ELSE in_roi OR NOT has_regions
END;

-- Whether the ROI's label is a tile's: it has one, ROIs are among the sources of labels, and no set before them gives
-- one; given_place is the place of the first set that does.
CREATE OR REPLACE MACRO roi_labels_tile(roi_label, sources, given_place) AS
coalesce(roi_label IS NOT NULL AND list_position(sources, 'rois') < coalesce(given_place, len(sources) + 1), false);

-- The whole numbers from first up to, not including, past: range(), and quicker where there is one.
CREATE OR REPLACE MACRO numbers_from(first, past) AS
CASE WHEN past = first + 1 THEN [first] ELSE range(first, past) END;
