-- schema: the tables of a study.
--
-- One DuckDB file is one study. Lengths are base (level-0) pixels unless a comment says microns.
-- Geometry is in base coordinates: x to the right, y down, origin at the slide's top left corner.

CREATE TABLE meta (
    key VARCHAR PRIMARY KEY,
    value VARCHAR NOT NULL
);
COMMENT ON TABLE meta IS 'Facts about the study itself, such as the version of its schema.';
COMMENT ON COLUMN meta.key IS 'Name of the fact.';
COMMENT ON COLUMN meta.value IS 'Its value, as text.';

CREATE SEQUENCE slide_ids START 1;
CREATE TABLE slides (
    slide_id INTEGER PRIMARY KEY DEFAULT nextval('slide_ids'),
    slide VARCHAR NOT NULL UNIQUE,
    path VARCHAR NOT NULL,
    vendor VARCHAR,
    width INTEGER,
    height INTEGER,
    mpp DOUBLE,
    mpp_y DOUBLE,
    mpp_given BOOLEAN NOT NULL DEFAULT false,
    level_widths INTEGER [],
    level_heights INTEGER [],
    level_downsamples DOUBLE [],
    objective_power DOUBLE,
    background VARCHAR,
    bytes BIGINT,
    mtime DOUBLE,
    fingerprint VARCHAR,
    error VARCHAR,
    bounds_x INTEGER,
    bounds_y INTEGER,
    bounds_width INTEGER,
    bounds_height INTEGER,
    centre_offset_x DOUBLE,
    centre_offset_y DOUBLE,
    CHECK (error IS NOT NULL OR (width > 0 AND height > 0 AND mpp > 0))
);
COMMENT ON TABLE slides IS 'One row per slide file; a slide that did not open is kept with its error.';
COMMENT ON COLUMN slides.slide_id IS 'Key used by the large tables.';
COMMENT ON COLUMN slides.slide IS 'Name: the stem of the file.';
COMMENT ON COLUMN slides.path IS 'Absolute path of the file.';
COMMENT ON COLUMN slides.vendor IS 'Format, as OpenSlide names it.';
COMMENT ON COLUMN slides.width IS 'Width of level 0, pixels.';
COMMENT ON COLUMN slides.height IS 'Height of level 0, pixels.';
COMMENT ON COLUMN slides.mpp IS 'Microns per base pixel, along x; every number is computed from it.';
COMMENT ON COLUMN slides.mpp_y IS 'Microns per base pixel, along y, as the header says.';
COMMENT ON COLUMN slides.mpp_given IS 'True if the user gave the MPP because the header has none.';
COMMENT ON COLUMN slides.level_widths IS 'Width of each level, pixels of that level.';
COMMENT ON COLUMN slides.level_heights IS 'Height of each level, pixels of that level.';
COMMENT ON COLUMN slides.level_downsamples IS 'Base pixels per pixel of each level.';
COMMENT ON COLUMN slides.objective_power IS 'Magnification of the objective, as the header says.';
COMMENT ON COLUMN slides.background IS 'Colour behind transparent pixels, RRGGBB.';
COMMENT ON COLUMN slides.bytes IS 'Size of the file, bytes.';
COMMENT ON COLUMN slides.mtime IS 'Time of the file''s last change, seconds since 1970.';
COMMENT ON COLUMN slides.fingerprint IS 'OpenSlide''s quickhash-1 or a hash of its ends, behind /1: one of samples.';
COMMENT ON COLUMN slides.error IS 'Why the slide cannot be used; NULL if it can.';
COMMENT ON COLUMN slides.bounds_x IS
'Left edge of what was scanned (openslide.bounds-x), base pixels; NULL where the header has none.';
COMMENT ON COLUMN slides.bounds_y IS 'Its top edge (openslide.bounds-y), base pixels.';
COMMENT ON COLUMN slides.bounds_width IS 'Its width (openslide.bounds-width), base pixels.';
COMMENT ON COLUMN slides.bounds_height IS 'Its height (openslide.bounds-height), base pixels.';
COMMENT ON COLUMN slides.centre_offset_x IS
'From the glass''s centre to the image''s, nanometres (hamamatsu.XOffsetFromSlideCentre); NULL for other formats.';
COMMENT ON COLUMN slides.centre_offset_y IS 'The same along y (hamamatsu.YOffsetFromSlideCentre).';

CREATE TABLE patients (
    slide VARCHAR PRIMARY KEY,
    patient VARCHAR,
    site VARCHAR
);
COMMENT ON TABLE patients IS 'Patient of each slide, and whatever further columns the user''s table has.';
COMMENT ON COLUMN patients.slide IS 'Name of the slide; slides that are not in the study are allowed.';
COMMENT ON COLUMN patients.patient IS 'Name of the patient; NULL where the table has none: the slide is then its own.';
COMMENT ON COLUMN patients.site IS 'Hospital or laboratory that the slide comes from.';

CREATE SEQUENCE roi_file_ids START 1;
CREATE TABLE roi_files (
    roi_file_id INTEGER PRIMARY KEY DEFAULT nextval('roi_file_ids'),
    roi_set VARCHAR NOT NULL DEFAULT 'default',
    path VARCHAR NOT NULL,
    format VARCHAR NOT NULL,
    holes VARCHAR NOT NULL,
    sha256 VARCHAR NOT NULL,
    frame VARCHAR NOT NULL DEFAULT 'level0' CHECK (frame IN ('level0', 'bounds')),
    options VARCHAR NOT NULL DEFAULT '{}',
    reader INTEGER NOT NULL DEFAULT 1,
    UNIQUE (roi_set, path)
);
COMMENT ON TABLE roi_files IS 'One row per ROI file that the study holds.';
COMMENT ON COLUMN roi_files.roi_file_id IS 'Key.';
COMMENT ON COLUMN roi_files.roi_set IS 'Set of ROIs that the file belongs to, such as a reader''s.';
COMMENT ON COLUMN roi_files.path IS 'Absolute path of the file.';
COMMENT ON COLUMN roi_files.format IS 'csv, geojson, xml (ImageScope, HALO), asap, ndpa, geoparquet or mask.';
COMMENT ON COLUMN roi_files.holes IS 'nested or explicit: how its holes are told.';
COMMENT ON COLUMN roi_files.sha256 IS 'Fingerprint of the file''s bytes.';
COMMENT ON COLUMN roi_files.frame IS
'Corner that the file counts from: level0, of the slide, or bounds, of what was scanned; the table rois is in level 0.';
COMMENT ON COLUMN roi_files.options IS 'What else add-rois or add-masks was told about the file, as JSON.';
COMMENT ON COLUMN roi_files.reader IS
'Version of the rules that it was read by: 1 repaired whole polygons by the even-odd rule, 2 ring by ring.';

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

CREATE SEQUENCE roi_ids START 1;
CREATE TABLE rois (
    roi_id INTEGER PRIMARY KEY DEFAULT nextval('roi_ids'),
    roi_set VARCHAR NOT NULL DEFAULT 'default',
    slide VARCHAR NOT NULL,
    roi_name VARCHAR NOT NULL,
    roi_desc VARCHAR NOT NULL,
    label VARCHAR,
    parent VARCHAR,
    area DOUBLE NOT NULL,
    outline GEOMETRY NOT NULL,
    geom GEOMETRY NOT NULL,
    marked_hole BOOLEAN NOT NULL DEFAULT false,
    repaired BOOLEAN NOT NULL DEFAULT false,
    leaves_slide BOOLEAN NOT NULL DEFAULT false,
    roi_file_id INTEGER NOT NULL,
    changed_area DOUBLE NOT NULL DEFAULT 0,
    UNIQUE (roi_set, slide, roi_name)
);
COMMENT ON TABLE rois IS 'One row per ROI, holes included; a hole has a parent and labels nothing itself.';
COMMENT ON COLUMN rois.roi_id IS 'Key used by the large tables.';
COMMENT ON COLUMN rois.roi_set IS 'Set of ROIs, such as a reader''s.';
COMMENT ON COLUMN rois.slide IS 'Name of the slide that the ROI is drawn on.';
COMMENT ON COLUMN rois.roi_name IS 'Name, unique in the slide and set.';
COMMENT ON COLUMN rois.roi_desc IS 'The name, with the names of the holes that are taken out of it.';
COMMENT ON COLUMN rois.label IS 'Label, or NULL where the ROI has none.';
COMMENT ON COLUMN rois.parent IS
'roi_name of the ROI that this one is a hole of, or NULL; of several, the smallest around it or most overlapped.';
COMMENT ON COLUMN rois.area IS 'Area of geom, square base pixels.';
COMMENT ON COLUMN rois.outline IS 'What was drawn, repaired where it crossed itself, base pixels.';
COMMENT ON COLUMN rois.geom IS 'The outline with its holes taken out, base pixels: what decides labels.';
COMMENT ON COLUMN rois.marked_hole IS 'True if the file itself marks it as a hole.';
COMMENT ON COLUMN rois.repaired IS 'True if the drawing crossed or touched itself and was repaired, ring by ring.';
COMMENT ON COLUMN rois.leaves_slide IS 'True if part of the ROI lies outside the slide.';
COMMENT ON COLUMN rois.roi_file_id IS 'The file it came from.';
COMMENT ON COLUMN rois.changed_area IS
'Area of the outline less that which the rings of the drawing enclose, square base pixels; 0 if not repaired.';

CREATE SEQUENCE grid_ids START 1;
CREATE TABLE grids (
    grid_id INTEGER PRIMARY KEY DEFAULT nextval('grid_ids'),
    grid VARCHAR NOT NULL UNIQUE,
    tile_px INTEGER NOT NULL CHECK (tile_px > 0),
    tile_um DOUBLE CHECK (tile_um > 0),
    magnification DOUBLE CHECK (magnification > 0),
    stride_div DOUBLE NOT NULL CHECK (stride_div > 0),
    origin_x INTEGER NOT NULL DEFAULT 0,
    origin_y INTEGER NOT NULL DEFAULT 0,
    CHECK ((tile_um IS NULL) <> (magnification IS NULL))
);
COMMENT ON TABLE grids IS 'One row per way of cutting slides into tiles.';
COMMENT ON COLUMN grids.grid_id IS 'Key used by the large tables.';
COMMENT ON COLUMN grids.grid IS 'Name, such as 256px_256um or 256px_20x_stride2.';
COMMENT ON COLUMN grids.tile_px IS 'Side of a tile as the model sees it, pixels.';
COMMENT ON COLUMN grids.tile_um IS 'Side of a tile, microns; NULL where a magnification is given.';
COMMENT ON COLUMN grids.magnification IS 'Magnification of the level to read, or NULL.';
COMMENT ON COLUMN grids.stride_div IS 'Tiles per tile side: 1 without overlap, 2 for half-tile steps.';
COMMENT ON COLUMN grids.origin_x IS 'Left edge of column 0, base pixels.';
COMMENT ON COLUMN grids.origin_y IS 'Top edge of row 0, base pixels.';

CREATE TABLE grid_slides (
    grid_id INTEGER NOT NULL,
    slide_id INTEGER NOT NULL,
    extract_px INTEGER NOT NULL,
    stride INTEGER NOT NULL,
    n_columns INTEGER NOT NULL,
    n_rows INTEGER NOT NULL,
    level INTEGER NOT NULL,
    level_downsample DOUBLE NOT NULL,
    read_px INTEGER NOT NULL,
    PRIMARY KEY (grid_id, slide_id)
);
COMMENT ON TABLE grid_slides IS 'How a grid lies on a slide.';
COMMENT ON COLUMN grid_slides.grid_id IS 'The grid.';
COMMENT ON COLUMN grid_slides.slide_id IS 'The slide.';
COMMENT ON COLUMN grid_slides.extract_px IS 'Side of a tile, base pixels.';
COMMENT ON COLUMN grid_slides.stride IS 'From one tile to the next, base pixels.';
COMMENT ON COLUMN grid_slides.n_columns IS 'Tiles in a row.';
COMMENT ON COLUMN grid_slides.n_rows IS 'Rows of tiles.';
COMMENT ON COLUMN grid_slides.level IS 'Level that tiles are read from.';
COMMENT ON COLUMN grid_slides.level_downsample IS 'Base pixels per pixel of that level.';
COMMENT ON COLUMN grid_slides.read_px IS 'Side of a tile, pixels of that level.';

CREATE TABLE tiles (
    grid_id INTEGER NOT NULL,
    slide_id INTEGER NOT NULL,
    grid_x INTEGER NOT NULL,
    grid_y INTEGER NOT NULL
);
COMMENT ON TABLE tiles IS 'One row per tile of each grid, in the order of slide, grid_y, grid_x.';
COMMENT ON COLUMN tiles.grid_id IS 'The grid.';
COMMENT ON COLUMN tiles.slide_id IS 'The slide.';
COMMENT ON COLUMN tiles.grid_x IS 'Column in the grid, from 0.';
COMMENT ON COLUMN tiles.grid_y IS 'Row in the grid, from 0.';

CREATE TABLE tile_rois (
    grid_id INTEGER NOT NULL,
    slide_id INTEGER NOT NULL,
    grid_x INTEGER NOT NULL,
    grid_y INTEGER NOT NULL,
    roi_id INTEGER NOT NULL,
    centre BOOLEAN NOT NULL,
    coverage DOUBLE NOT NULL
);
COMMENT ON TABLE tile_rois IS 'One row per tile and ROI that touch; holes label nothing and are not here.';
COMMENT ON COLUMN tile_rois.grid_id IS 'The grid.';
COMMENT ON COLUMN tile_rois.slide_id IS 'The slide.';
COMMENT ON COLUMN tile_rois.grid_x IS 'Column of the tile.';
COMMENT ON COLUMN tile_rois.grid_y IS 'Row of the tile.';
COMMENT ON COLUMN tile_rois.roi_id IS 'The ROI.';
COMMENT ON COLUMN tile_rois.centre IS 'True if the tile''s centre is in the ROI, boundary included.';
COMMENT ON COLUMN tile_rois.coverage IS 'Part of the tile''s area that the ROI covers, 0 to 1.';

CREATE TABLE labelled (
    grid_id INTEGER NOT NULL,
    slide_id INTEGER NOT NULL,
    inputs VARCHAR NOT NULL,
    counted_by VARCHAR,
    PRIMARY KEY (grid_id, slide_id)
);
COMMENT ON TABLE labelled IS 'The slides of each grid whose tile_rois are complete.';
COMMENT ON COLUMN labelled.grid_id IS 'The grid.';
COMMENT ON COLUMN labelled.slide_id IS 'The slide.';
COMMENT ON COLUMN labelled.inputs IS 'Fingerprint of the grid, slide and ROIs that they were computed from.';
COMMENT ON COLUMN labelled.counted_by IS 'The rule by which label_counts and roi_counts count the slide, as text.';

CREATE TABLE label_counts (
    grid_id INTEGER NOT NULL,
    slide_id INTEGER NOT NULL,
    label VARCHAR,
    tiles BIGINT NOT NULL,
    kept BIGINT NOT NULL,
    in_no_roi BIGINT NOT NULL,
    in_several_rois BIGINT NOT NULL
);
COMMENT ON TABLE label_counts IS 'Tiles of each slide by label, as the last labelling counted them.';
COMMENT ON COLUMN label_counts.grid_id IS 'The grid.';
COMMENT ON COLUMN label_counts.slide_id IS 'The slide.';
COMMENT ON COLUMN label_counts.label IS 'The label, or NULL.';
COMMENT ON COLUMN label_counts.tiles IS 'Tiles with it.';
COMMENT ON COLUMN label_counts.kept IS 'Those of them that the method and the artifacts keep.';
COMMENT ON COLUMN label_counts.in_no_roi IS 'Those of them that are in no ROI.';
COMMENT ON COLUMN label_counts.in_several_rois IS 'Those of them that are in more than one ROI.';

CREATE TABLE roi_counts (
    grid_id INTEGER NOT NULL,
    slide_id INTEGER NOT NULL,
    roi_id INTEGER NOT NULL,
    held BIGINT NOT NULL,
    won BIGINT NOT NULL
);
COMMENT ON TABLE roi_counts IS 'Tiles of each ROI of the set in force, as the last labelling counted them.';
COMMENT ON COLUMN roi_counts.grid_id IS 'The grid.';
COMMENT ON COLUMN roi_counts.slide_id IS 'The slide.';
COMMENT ON COLUMN roi_counts.roi_id IS 'The ROI; holes are not here.';
COMMENT ON COLUMN roi_counts.held IS 'Tiles that are in it by the rule; 0 for an ROI without tiles.';
COMMENT ON COLUMN roi_counts.won IS 'Tiles whose name of an ROI is its.';

CREATE TABLE label_rule (
    rule VARCHAR NOT NULL CHECK (rule IN ('centre', 'coverage')),
    threshold DOUBLE NOT NULL CHECK (threshold > 0 AND threshold <= 1),
    overlap VARCHAR NOT NULL CHECK (overlap IN ('smallest', 'priority', 'largest', 'exclude')),
    priority VARCHAR [] NOT NULL,
    method VARCHAR NOT NULL CHECK (method IN ('auto', 'inside', 'outside', 'ignore')),
    artifact_labels VARCHAR [] NOT NULL,
    roi_sets VARCHAR [] NOT NULL,
    labels_from VARCHAR [] NOT NULL DEFAULT ['rois']
);
COMMENT ON TABLE label_rule IS 'The one row that decides labels; the view labels reads it.';
COMMENT ON COLUMN label_rule.rule IS 'centre: by the tile''s centre; coverage: by the area covered.';
COMMENT ON COLUMN label_rule.threshold IS 'Least coverage under the coverage rule, above 0 and at most 1.';
COMMENT ON COLUMN label_rule.overlap IS 'Which ROI wins a tile that lies in several.';
COMMENT ON COLUMN label_rule.priority IS 'Labels in order of priority, for overlap = priority.';
COMMENT ON COLUMN label_rule.method IS 'Which tiles are kept: Slideflow''s roi_method.';
COMMENT ON COLUMN label_rule.artifact_labels IS 'Labels of ROIs whose tiles are removed.';
COMMENT ON COLUMN label_rule.roi_sets IS 'Sets of ROIs, the first that a slide has is the one used.';
COMMENT ON COLUMN label_rule.labels_from IS
'Where labels come from, the first that labels a tile: rois, or names of label_sets.';

CREATE SEQUENCE label_set_ids START 1;
CREATE TABLE label_sets (
    label_set_id INTEGER PRIMARY KEY DEFAULT nextval('label_set_ids'),
    name VARCHAR NOT NULL,
    grid_id INTEGER NOT NULL,
    kind VARCHAR NOT NULL CHECK (kind IN ('labels', 'numbers', 'soft')),
    classes VARCHAR [] NOT NULL,
    source VARCHAR NOT NULL,
    sha256 VARCHAR,
    content VARCHAR NOT NULL,
    options VARCHAR NOT NULL DEFAULT '{}',
    UNIQUE (name, grid_id)
);
COMMENT ON TABLE label_sets IS
'Sets of labels of tiles that add-labels read; a set of a name has one kind in every grid.';
COMMENT ON COLUMN label_sets.label_set_id IS 'Key used by the large table.';
COMMENT ON COLUMN label_sets.name IS 'Name of the set, such as consensus.';
COMMENT ON COLUMN label_sets.grid_id IS 'The grid whose tiles it labels.';
COMMENT ON COLUMN label_sets.kind IS
'labels: a text a tile; numbers: a number a tile; soft: a probability of each class.';
COMMENT ON COLUMN label_sets.classes IS
'The labels that its tiles have, or the classes of soft labels, in their order.';
COMMENT ON COLUMN label_sets.source IS 'Absolute path of the file that it was read from, or what it was in Python.';
COMMENT ON COLUMN label_sets.sha256 IS 'Fingerprint of the file''s bytes; NULL for what was no file.';
COMMENT ON COLUMN label_sets.content IS 'Fingerprint of its rows, whatever their order.';
COMMENT ON COLUMN label_sets.options IS 'What else add-labels was told about the source, as JSON.';

CREATE TABLE tile_labels (
    label_set_id INTEGER NOT NULL,
    slide_id INTEGER NOT NULL,
    grid_x INTEGER NOT NULL,
    grid_y INTEGER NOT NULL,
    label VARCHAR,
    value DOUBLE,
    probabilities DOUBLE []
);
COMMENT ON TABLE tile_labels IS 'One row per set and tile that it labels, in the order of slide_id, grid_y, grid_x.';
COMMENT ON COLUMN tile_labels.label_set_id IS 'The set.';
COMMENT ON COLUMN tile_labels.slide_id IS 'The slide.';
COMMENT ON COLUMN tile_labels.grid_x IS 'Column of the tile in the set''s grid.';
COMMENT ON COLUMN tile_labels.grid_y IS 'Row of the tile.';
COMMENT ON COLUMN tile_labels.label IS
'The label; of soft labels the class of the greatest probability, of equals the first; NULL for numbers.';
COMMENT ON COLUMN tile_labels.value IS 'The number; NULL for labels.';
COMMENT ON COLUMN tile_labels.probabilities IS 'Probability of each class of the set, for soft labels alone.';

CREATE TABLE tile_qc (
    grid_id INTEGER NOT NULL,
    slide_id INTEGER NOT NULL,
    grid_x INTEGER NOT NULL,
    grid_y INTEGER NOT NULL,
    brightness DOUBLE,
    saturation DOUBLE,
    white_fraction DOUBLE,
    grey_fraction DOUBLE,
    blur DOUBLE,
    tissue DOUBLE,
    pen DOUBLE
);
COMMENT ON TABLE tile_qc IS 'What is measured of tiles, for filters; NULL where it is not measured. A slide is whole.';
COMMENT ON COLUMN tile_qc.grid_id IS 'The grid.';
COMMENT ON COLUMN tile_qc.slide_id IS 'The slide.';
COMMENT ON COLUMN tile_qc.grid_x IS 'Column of the tile.';
COMMENT ON COLUMN tile_qc.grid_y IS 'Row of the tile.';
COMMENT ON COLUMN tile_qc.brightness IS 'Mean of red, green and blue, 0 to 255.';
COMMENT ON COLUMN tile_qc.saturation IS 'Mean saturation (HSV), 0 to 1.';
COMMENT ON COLUMN tile_qc.white_fraction IS 'Part of the pixels whose mean of red, green and blue is above 230.';
COMMENT ON COLUMN tile_qc.grey_fraction IS 'Part of the pixels whose saturation is below 0.05.';
COMMENT ON COLUMN tile_qc.blur IS 'Variance of the Laplacian of the grey tile; low where it is blurred or empty.';
COMMENT ON COLUMN tile_qc.tissue IS 'Part of the tile that Otsu''s mask of the slide covers, 0 to 1.';
COMMENT ON COLUMN tile_qc.pen IS 'Part of the pixels with a colour of red, green, blue or black ink.';

CREATE TABLE qc_slides (
    grid_id INTEGER NOT NULL,
    slide_id INTEGER NOT NULL,
    measure VARCHAR NOT NULL,
    measured_at VARCHAR NOT NULL CHECK (measured_at IN ('low', 'full', 'tile', 'picture')),
    level INTEGER,
    downsample DOUBLE NOT NULL,
    settings VARCHAR NOT NULL,
    versions VARCHAR NOT NULL,
    PRIMARY KEY (grid_id, slide_id, measure)
);
COMMENT ON TABLE qc_slides IS 'The measures of each slide and grid that are complete in tile_qc.';
COMMENT ON COLUMN qc_slides.grid_id IS 'The grid.';
COMMENT ON COLUMN qc_slides.slide_id IS 'The slide.';
COMMENT ON COLUMN qc_slides.measure IS 'Name of the column of tile_qc.';
COMMENT ON COLUMN qc_slides.measured_at IS
'low: a low level; full: the pixels that the tile is read from; tile: as the model sees it; picture: of the slide.';
COMMENT ON COLUMN qc_slides.level IS 'Level that was read; NULL for a picture of the whole slide.';
COMMENT ON COLUMN qc_slides.downsample IS 'Base pixels per pixel that was measured.';
COMMENT ON COLUMN qc_slides.settings IS 'Thresholds and definition, as JSON; equal for equal definitions alone.';
COMMENT ON COLUMN qc_slides.versions IS 'What it was measured with, as JSON.';

CREATE TABLE slide_stains (
    slide_id INTEGER NOT NULL,
    method VARCHAR NOT NULL CHECK (method IN ('macenko', 'reinhard')),
    numbers MAP (VARCHAR, DOUBLE []) NOT NULL,
    pixels BIGINT NOT NULL,
    fingerprint VARCHAR NOT NULL,
    mpp DOUBLE NOT NULL,
    settings VARCHAR NOT NULL,
    library VARCHAR NOT NULL,
    PRIMARY KEY (slide_id, method)
);
COMMENT ON TABLE slide_stains IS 'The stains of slides, from which normalisation takes them.';
COMMENT ON COLUMN slide_stains.slide_id IS 'The slide.';
COMMENT ON COLUMN slide_stains.method IS 'macenko or reinhard.';
COMMENT ON COLUMN slide_stains.numbers IS
'macenko: haematoxylin, eosin (optical density of R, G, B), concentrations; reinhard: lab_mean, lab_std (L*, a*, b*).';
COMMENT ON COLUMN slide_stains.pixels IS 'Pixels of tissue that were looked at, of 1 micron.';
COMMENT ON COLUMN slide_stains.fingerprint IS 'Fingerprint of the file that was looked at.';
COMMENT ON COLUMN slide_stains.mpp IS 'Microns per base pixel that were reckoned with.';
COMMENT ON COLUMN slide_stains.settings IS 'Definition and constants, as JSON; equal for equal definitions alone.';
COMMENT ON COLUMN slide_stains.library IS 'The library that fitted, with its version.';

CREATE TABLE split_rule (
    kind VARCHAR NOT NULL CHECK (kind IN ('fraction', 'folds', 'site_folds', 'column')),
    seed BIGINT NOT NULL,
    val_fraction DOUBLE,
    n_folds INTEGER,
    val_fold INTEGER,
    column_name VARCHAR
);
COMMENT ON TABLE split_rule IS 'How the split in force was made; no row where there is none.';
COMMENT ON COLUMN split_rule.kind IS 'fraction, folds, site_folds or column.';
COMMENT ON COLUMN split_rule.seed IS 'Seed of the split.';
COMMENT ON COLUMN split_rule.val_fraction IS 'Part of the tiles that validate, for kind fraction.';
COMMENT ON COLUMN split_rule.n_folds IS 'Number of folds, for the kinds with folds.';
COMMENT ON COLUMN split_rule.val_fold IS 'The fold that is split val, for the kinds with folds.';
COMMENT ON COLUMN split_rule.column_name IS 'Column of the patients'' table, for kind column.';

CREATE TABLE splits (
    patient VARCHAR PRIMARY KEY,
    split VARCHAR NOT NULL,
    fold INTEGER
);
COMMENT ON TABLE splits IS 'The side of each patient; a slide without a patient is its own patient.';
COMMENT ON COLUMN splits.patient IS 'Name of the patient, or of the slide where no patient is given.';
COMMENT ON COLUMN splits.split IS 'train, val, or a value of the user''s own column.';
COMMENT ON COLUMN splits.fold IS 'Fold from 0, for the kinds with folds.';

CREATE TABLE runs (
    run VARCHAR PRIMARY KEY,
    path VARCHAR NOT NULL,
    checkpoint VARCHAR NOT NULL,
    classes VARCHAR [] NOT NULL,
    tta VARCHAR NOT NULL DEFAULT 'none' CHECK (tta IN ('none', 'd4')),
    mc_dropout INTEGER NOT NULL DEFAULT 0 CHECK (mc_dropout >= 0),
    mc_seed INTEGER NOT NULL DEFAULT 0
);
COMMENT ON TABLE runs IS 'Runs whose predictions the study holds.';
COMMENT ON COLUMN runs.run IS 'Name: that of the run''s folder.';
COMMENT ON COLUMN runs.path IS 'Absolute path of the run''s folder.';
COMMENT ON COLUMN runs.checkpoint IS 'SHA-256 of the checkpoint that predicted.';
COMMENT ON COLUMN runs.classes IS 'Names of the outputs, in order: classes, labels, or columns of numbers.';
COMMENT ON COLUMN runs.tta IS 'Test-time augmentation of its predictions: none, or d4, the mean over eight positions.';
COMMENT ON COLUMN runs.mc_dropout IS 'Passes with dropout on that its predictions are the mean of; 0 for none.';
COMMENT ON COLUMN runs.mc_seed IS 'Seed of what those passes drop.';

CREATE TABLE predictions (
    run VARCHAR NOT NULL,
    grid VARCHAR NOT NULL,
    slide VARCHAR NOT NULL,
    tile_id VARCHAR NOT NULL,
    grid_x INTEGER NOT NULL,
    grid_y INTEGER NOT NULL,
    predicted VARCHAR NOT NULL,
    probability FLOAT NOT NULL,
    probabilities MAP(VARCHAR, FLOAT) NOT NULL,
    entropy FLOAT,
    mutual_information FLOAT
);
COMMENT ON TABLE predictions IS 'One row per run, grid and tile that was predicted; a slide is whole or absent.';
COMMENT ON COLUMN predictions.run IS 'The run.';
COMMENT ON COLUMN predictions.grid IS 'Name of the grid.';
COMMENT ON COLUMN predictions.slide IS 'Name of the slide.';
COMMENT ON COLUMN predictions.tile_id IS 'The tile, as in the view labels.';
COMMENT ON COLUMN predictions.grid_x IS 'Column of the tile.';
COMMENT ON COLUMN predictions.grid_y IS 'Row of the tile.';
COMMENT ON COLUMN predictions.predicted IS
'Class of the greatest probability; or the labels of a half or more, as a;b, and - for none.';
COMMENT ON COLUMN predictions.probability IS
'Its probability, 0 to 1; of several labels that of all being so, as if independent.';
COMMENT ON COLUMN predictions.probabilities IS 'Probability of each class or label.';
COMMENT ON COLUMN predictions.entropy IS 'Entropy of the probabilities, nats; NULL without MC dropout.';
COMMENT ON COLUMN predictions.mutual_information IS
'Part of the entropy on which the passes of MC dropout disagree, nats; NULL without.';

CREATE TABLE evaluations (
    run VARCHAR NOT NULL,
    evaluation VARCHAR NOT NULL,
    run_path VARCHAR NOT NULL,
    path VARCHAR NOT NULL,
    checkpoint VARCHAR,
    epoch INTEGER,
    grid VARCHAR NOT NULL,
    beton VARCHAR,
    split VARCHAR,
    classes VARCHAR [] NOT NULL,
    tiles BIGINT NOT NULL,
    PRIMARY KEY (run, evaluation)
);
COMMENT ON TABLE evaluations IS 'One row per set of labelled tiles that a run was evaluated on, and that was added.';
COMMENT ON COLUMN evaluations.run IS 'Name of the run: that of its folder.';
COMMENT ON COLUMN evaluations.evaluation IS 'Name: the stem of the Parquet; validation for the run''s own tiles.';
COMMENT ON COLUMN evaluations.run_path IS 'Absolute path of the run''s folder when it predicted.';
COMMENT ON COLUMN evaluations.path IS 'Absolute path of the Parquet that it was read from.';
COMMENT ON COLUMN evaluations.checkpoint IS 'SHA-256 of the checkpoint, where the Parquet says it.';
COMMENT ON COLUMN evaluations.epoch IS 'Epoch of the weights, from 1, where the Parquet says it.';
COMMENT ON COLUMN evaluations.grid IS 'Name of the grid of the tiles.';
COMMENT ON COLUMN evaluations.beton IS 'Path of the beton at the time.';
COMMENT ON COLUMN evaluations.split IS 'Split or fold that the tiles were; NULL for all of the beton.';
COMMENT ON COLUMN evaluations.classes IS 'Names of the outputs, in order: classes, labels, or columns of numbers.';
COMMENT ON COLUMN evaluations.tiles IS 'Number of its tiles, in evaluated_tiles or evaluated_numbers.';

CREATE TABLE evaluated_tiles (
    run VARCHAR NOT NULL,
    evaluation VARCHAR NOT NULL,
    grid VARCHAR NOT NULL,
    slide VARCHAR NOT NULL,
    tile_id VARCHAR NOT NULL,
    patient VARCHAR NOT NULL,
    label VARCHAR NOT NULL,
    predicted VARCHAR NOT NULL,
    probability DOUBLE NOT NULL,
    loss DOUBLE NOT NULL,
    probabilities MAP(VARCHAR, DOUBLE) NOT NULL
);
COMMENT ON TABLE evaluated_tiles IS 'One row per evaluation and tile; whole, and kept when a slide is removed.';
COMMENT ON COLUMN evaluated_tiles.run IS 'The run.';
COMMENT ON COLUMN evaluated_tiles.evaluation IS 'The evaluation.';
COMMENT ON COLUMN evaluated_tiles.grid IS 'Name of the grid.';
COMMENT ON COLUMN evaluated_tiles.slide IS 'Name of the slide.';
COMMENT ON COLUMN evaluated_tiles.tile_id IS 'The tile, as in the view labels.';
COMMENT ON COLUMN evaluated_tiles.patient IS 'The patient, as the beton had it.';
COMMENT ON COLUMN evaluated_tiles.label IS
'The label, or the labels as a;b, as the beton had it; the study may have another by now.';
COMMENT ON COLUMN evaluated_tiles.predicted IS
'Class of the greatest probability; or the labels of a half or more, as a;b, and - for none.';
COMMENT ON COLUMN evaluated_tiles.probability IS
'Its probability, 0 to 1; of several labels that of all being so, as if independent.';
COMMENT ON COLUMN evaluated_tiles.loss IS 'Cross-entropy of the label, nats; of several labels the mean of theirs.';
COMMENT ON COLUMN evaluated_tiles.probabilities IS 'Probability of each class or label.';

CREATE TABLE predicted_numbers (
    run VARCHAR NOT NULL,
    grid VARCHAR NOT NULL,
    slide VARCHAR NOT NULL,
    tile_id VARCHAR NOT NULL,
    grid_x INTEGER NOT NULL,
    grid_y INTEGER NOT NULL,
    target VARCHAR NOT NULL,
    number FLOAT NOT NULL,
    deviation FLOAT
);
COMMENT ON TABLE predicted_numbers IS
'One row per run, grid, tile and number that was predicted by a run of task regression; a slide is whole or absent.';
COMMENT ON COLUMN predicted_numbers.run IS 'The run.';
COMMENT ON COLUMN predicted_numbers.grid IS 'Name of the grid.';
COMMENT ON COLUMN predicted_numbers.slide IS 'Name of the slide.';
COMMENT ON COLUMN predicted_numbers.tile_id IS 'The tile, as in the view labels.';
COMMENT ON COLUMN predicted_numbers.grid_x IS 'Column of the tile.';
COMMENT ON COLUMN predicted_numbers.grid_y IS 'Row of the tile.';
COMMENT ON COLUMN predicted_numbers.target IS 'Column of the patients'' table that the number is of, such as age.';
COMMENT ON COLUMN predicted_numbers.number IS 'The number, in the unit of that column: the mean over the passes.';
COMMENT ON COLUMN predicted_numbers.deviation IS
'Standard deviation over the passes, in that unit; NULL where there was one alone.';

CREATE TABLE evaluated_numbers (
    run VARCHAR NOT NULL,
    evaluation VARCHAR NOT NULL,
    grid VARCHAR NOT NULL,
    slide VARCHAR NOT NULL,
    tile_id VARCHAR NOT NULL,
    patient VARCHAR NOT NULL,
    target VARCHAR NOT NULL,
    observed DOUBLE NOT NULL,
    number DOUBLE NOT NULL
);
COMMENT ON TABLE evaluated_numbers IS
'One row per evaluation, tile and number, of a run of task regression; whole, and kept when a slide is removed.';
COMMENT ON COLUMN evaluated_numbers.run IS 'The run.';
COMMENT ON COLUMN evaluated_numbers.evaluation IS 'The evaluation.';
COMMENT ON COLUMN evaluated_numbers.grid IS 'Name of the grid.';
COMMENT ON COLUMN evaluated_numbers.slide IS 'Name of the slide.';
COMMENT ON COLUMN evaluated_numbers.tile_id IS 'The tile, as in the view labels.';
COMMENT ON COLUMN evaluated_numbers.patient IS 'The patient, as the beton had it.';
COMMENT ON COLUMN evaluated_numbers.target IS 'Column of the patients'' table that the numbers are of.';
COMMENT ON COLUMN evaluated_numbers.observed IS 'The number that the beton had, in the unit of that column.';
COMMENT ON COLUMN evaluated_numbers.number IS 'The number that the network says.';

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
