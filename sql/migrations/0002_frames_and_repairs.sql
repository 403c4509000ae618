-- 0002_frames_and_repairs: the bounds of slides, the frame of ROI files, what a repair changed, and the journal.
--
-- Files whose ROIs the repair of version 1 may have changed keep reader 1: add-rois reads those again, and info names
-- their ROIs. What the others gave is what version 2 gives.
ALTER TABLE slides ADD COLUMN bounds_x INTEGER;
ALTER TABLE slides ADD COLUMN bounds_y INTEGER;
ALTER TABLE slides ADD COLUMN bounds_width INTEGER;
ALTER TABLE slides ADD COLUMN bounds_height INTEGER;
ALTER TABLE slides ADD COLUMN centre_offset_x DOUBLE;
ALTER TABLE slides ADD COLUMN centre_offset_y DOUBLE;
COMMENT ON COLUMN slides.bounds_x IS
'Left edge of what was scanned (openslide.bounds-x), base pixels; NULL where the header has none.';
COMMENT ON COLUMN slides.bounds_y IS 'Its top edge (openslide.bounds-y), base pixels.';
COMMENT ON COLUMN slides.bounds_width IS 'Its width (openslide.bounds-width), base pixels.';
COMMENT ON COLUMN slides.bounds_height IS 'Its height (openslide.bounds-height), base pixels.';
COMMENT ON COLUMN slides.centre_offset_x IS
'From the glass''s centre to the image''s, nanometres (hamamatsu.XOffsetFromSlideCentre); NULL for other formats.';
COMMENT ON COLUMN slides.centre_offset_y IS 'The same along y (hamamatsu.YOffsetFromSlideCentre).';

ALTER TABLE roi_files ADD COLUMN frame VARCHAR DEFAULT 'level0';
ALTER TABLE roi_files ADD COLUMN options VARCHAR DEFAULT '{}';
ALTER TABLE roi_files ADD COLUMN reader INTEGER DEFAULT 1;
COMMENT ON COLUMN roi_files.format IS 'csv, geojson, xml (ImageScope, HALO), asap, ndpa, geoparquet or mask.';
COMMENT ON COLUMN roi_files.frame IS
'Corner that the file counts from: level0, of the slide, or bounds, of what was scanned; the table rois is in level 0.';
COMMENT ON COLUMN roi_files.options IS 'What else add-rois or add-masks was told about the file, as JSON.';
COMMENT ON COLUMN roi_files.reader IS
'Version of the rules that it was read by: 1 repaired whole polygons by the even-odd rule, 2 ring by ring.';

UPDATE roi_files
SET reader = 2
WHERE
    roi_file_id NOT IN (
        SELECT rois.roi_file_id
        FROM rois
        WHERE rois.repaired OR (rois.marked_hole AND roi_files.holes = 'explicit')
    );

CREATE TABLE roi_file_slides (
    roi_file_id INTEGER NOT NULL,
    slide VARCHAR NOT NULL,
    offset_x DOUBLE NOT NULL DEFAULT 0,
    offset_y DOUBLE NOT NULL DEFAULT 0,
    left_out INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (roi_file_id, slide)
);
COMMENT ON TABLE roi_file_slides IS
'The slides that an ROI file speaks of; one without ROIs has been looked at, and has none.';
COMMENT ON COLUMN roi_file_slides.roi_file_id IS 'The file.';
COMMENT ON COLUMN roi_file_slides.slide IS 'Name of the slide.';
COMMENT ON COLUMN roi_file_slides.offset_x IS 'What was added to x of the file to get base pixels.';
COMMENT ON COLUMN roi_file_slides.offset_y IS 'What was added to y of the file to get base pixels.';
COMMENT ON COLUMN roi_file_slides.left_out IS 'ROIs of the file that lie wholly outside the slide and were left out.';
INSERT INTO roi_file_slides BY NAME
SELECT DISTINCT
    rois.roi_file_id,
    rois.slide,
FROM rois
ORDER BY rois.roi_file_id, rois.slide;

ALTER TABLE rois ADD COLUMN changed_area DOUBLE DEFAULT 0;
COMMENT ON COLUMN rois.changed_area IS
'Area of the outline less that which the rings of the drawing enclose, square base pixels; 0 if not repaired.';
COMMENT ON COLUMN rois.parent IS
'roi_name of the ROI that this one is a hole of, or NULL; of several, the smallest around it or most overlapped.';
COMMENT ON COLUMN rois.repaired IS 'True if the drawing crossed or touched itself and was repaired, ring by ring.';

ALTER TABLE patients ALTER COLUMN patient DROP NOT NULL;
COMMENT ON COLUMN patients.patient IS 'Name of the patient; NULL where the table has none: the slide is then its own.';

CREATE SEQUENCE change_ids START 1;
CREATE TABLE changes (
    change_id INTEGER PRIMARY KEY DEFAULT nextval('change_ids'),
    changed_at TIMESTAMP NOT NULL DEFAULT current_localtimestamp(),
    change VARCHAR NOT NULL,
    detail VARCHAR NOT NULL
);
COMMENT ON TABLE changes IS 'The journal of the study: what was renamed or moved, in order.';
COMMENT ON COLUMN changes.change_id IS 'Key, in the order of the changes.';
COMMENT ON COLUMN changes.changed_at IS 'When, local time.';
COMMENT ON COLUMN changes.change IS 'What was done: rename-label or relocate.';
COMMENT ON COLUMN changes.detail IS 'To what, as JSON.';

CREATE TABLE label_names (
    label VARCHAR PRIMARY KEY,
    renamed VARCHAR
);
COMMENT ON TABLE label_names IS 'Labels that rename-label renamed; ROI files that are added later are renamed, too.';
COMMENT ON COLUMN label_names.label IS 'Label as files have it.';
COMMENT ON COLUMN label_names.renamed IS 'Label in its place; NULL for no label.';
