-- upsert_roi_files: the ROI files of the relation incoming_file, into the set $roi_set, in the order of their paths.
INSERT INTO roi_files (roi_set, path, format, holes, sha256, frame, options, reader)
SELECT
    $roi_set,
    incoming_file.path,
    incoming_file.format,
    incoming_file.holes,
    incoming_file.sha256,
    incoming_file.frame,
    incoming_file.options,
    incoming_file.reader,
FROM incoming_file
ORDER BY incoming_file.path
ON CONFLICT (roi_set, path) DO UPDATE SET
    format = excluded.format,
    holes = excluded.holes,
    sha256 = excluded.sha256,
    frame = excluded.frame,
    options = excluded.options,
    reader = excluded.reader
