-- mark_labelled: that the pairs of the grid $grid_id and the slides $slide_ids are complete, and from what.
INSERT INTO labelled BY NAME
SELECT
    grid_slides.grid_id,
    grid_slides.slide_id,
    sha256(concat_ws(
        '|', grids.grid, slides.fingerprint, slides.width, slides.height, slides.mpp,
        string_agg(
            concat_ws(':', rois.roi_set, rois.roi_name, rois.label, sha256(ST_AsWKB(rois.geom)::BLOB)), '|'
            ORDER BY rois.roi_set, rois.roi_name
        )
    )) AS inputs,
FROM grid_slides
INNER JOIN grids ON grid_slides.grid_id = grids.grid_id
INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
LEFT JOIN rois ON slides.slide = rois.slide AND rois.parent IS NULL
WHERE grid_slides.grid_id = $grid_id AND list_contains($slide_ids, grid_slides.slide_id)
GROUP BY
    grid_slides.grid_id, grid_slides.slide_id, grids.grid, slides.fingerprint, slides.width, slides.height, slides.mpp
