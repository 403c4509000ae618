-- macros: the contract's arithmetic on tiles, for views and for users; the same as engine/grid.py.

CREATE OR REPLACE MACRO tile_origin(grid_xy, stride, origin) AS origin + grid_xy * stride;

CREATE OR REPLACE MACRO tile_location(grid_xy, stride, extract_px, origin) AS
origin + grid_xy * stride + extract_px // 2;

CREATE OR REPLACE MACRO tile_centre(grid_xy, stride, extract_px, origin) AS
origin + grid_xy * stride + extract_px / 2;

CREATE OR REPLACE MACRO clamp(value, low, high) AS least(greatest(value, low), high);

CREATE OR REPLACE MACRO make_tile_id(slide, loc_x, loc_y) AS
slide || '-' || loc_x || '-' || loc_y;

-- Whether the method keeps a tile: in_roi and in_artifact are of the tile, has_regions of its slide.
CREATE OR REPLACE MACRO is_kept(method, in_roi, in_artifact, has_regions) AS
NOT in_artifact
AND CASE method
    WHEN 'ignore' THEN true
    WHEN 'inside' THEN in_roi
    WHEN 'outside' THEN NOT in_roi
    ELSE in_roi OR NOT has_regions
END;

-- The whole numbers from first up to, not including, past: range(), and quicker where there is one.
CREATE OR REPLACE MACRO numbers_from(first, past) AS
CASE WHEN past = first + 1 THEN [first] ELSE range(first, past) END;
