-- macros: the contract's arithmetic on tiles, for views and for users; the same as engine/grid.py.

CREATE OR REPLACE MACRO tile_origin(grid_xy, stride, origin) AS origin + grid_xy * stride;

CREATE OR REPLACE MACRO tile_location(grid_xy, stride, extract_px, origin) AS
origin + grid_xy * stride + extract_px // 2;

CREATE OR REPLACE MACRO tile_centre(grid_xy, stride, extract_px, origin) AS
origin + grid_xy * stride + extract_px / 2;

CREATE OR REPLACE MACRO clamp(value, low, high) AS least(greatest(value, low), high);

CREATE OR REPLACE MACRO make_tile_id(slide, loc_x, loc_y) AS
slide || '-' || loc_x || '-' || loc_y;
