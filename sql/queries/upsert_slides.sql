-- upsert_slides: the headers in incoming_slide, each in place of what the study knew of that slide.
INSERT INTO slides BY NAME
SELECT incoming_slide.*
FROM incoming_slide
ORDER BY incoming_slide.slide
ON CONFLICT (slide) DO UPDATE SET
    path = excluded.path,
    vendor = excluded.vendor,
    width = excluded.width,
    height = excluded.height,
    mpp = excluded.mpp,
    mpp_y = excluded.mpp_y,
    mpp_given = excluded.mpp_given,
    level_widths = excluded.level_widths,
    level_heights = excluded.level_heights,
    level_downsamples = excluded.level_downsamples,
    objective_power = excluded.objective_power,
    background = excluded.background,
    bytes = excluded.bytes,
    mtime = excluded.mtime,
    fingerprint = excluded.fingerprint,
    error = excluded.error,
    bounds_x = excluded.bounds_x,
    bounds_y = excluded.bounds_y,
    bounds_width = excluded.bounds_width,
    bounds_height = excluded.bounds_height,
    centre_offset_x = excluded.centre_offset_x,
    centre_offset_y = excluded.centre_offset_y
