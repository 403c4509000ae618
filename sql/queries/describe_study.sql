-- describe_study: what a study holds, at a glance.
--
-- Grain: one row per kind of thing; "ROIs to add again" only where there are any: those that the rules before changed,
--     repaired ones (whole drawings were, by the even-odd rule) and marked holes (cut out of one ROI alone).
WITH outdated AS (
    SELECT
        rois.slide || ': ' || rois.roi_name AS called,
        concat(
            'slideduck add-rois STUDY ''', replace(roi_files.path, '''', '''"''"'''), '''',
            CASE WHEN roi_files.roi_set <> 'default' THEN ' --set ''' || roi_files.roi_set || '''' END,
            CASE WHEN (roi_files.format = 'csv') <> (roi_files.holes = 'nested') THEN ' --holes ' || roi_files.holes END
        ) AS remedy,
        row_number() OVER (ORDER BY rois.slide ASC, rois.roi_name ASC, rois.roi_set ASC) AS number,
    FROM rois
    INNER JOIN roi_files ON rois.roi_file_id = roi_files.roi_file_id
    WHERE roi_files.reader < 2 AND (rois.repaired OR (rois.marked_hole AND roi_files.holes = 'explicit'))
)

SELECT
    'slides' AS what,
    count(*) AS count,
    count(*) FILTER (WHERE slides.error IS NOT NULL) || ' cannot be used; '
    || coalesce(string_agg(DISTINCT slides.vendor, ', ' ORDER BY slides.vendor), 'no format') AS detail,
FROM slides
UNION ALL
SELECT
    'patients' AS what,
    count(DISTINCT coalesce(patients.patient, slides.slide)) AS count,
    count(*) FILTER (WHERE patients.patient IS NULL) || ' slides without a patient; '
    || count(DISTINCT patients.site) || ' sites' AS detail,
FROM slides
LEFT JOIN patients ON slides.slide = patients.slide
UNION ALL
SELECT
    'ROIs' AS what,
    count(*) AS count,
    count(*) FILTER (WHERE rois.parent IS NOT NULL) || ' of them holes, '
    || count(*) FILTER (WHERE rois.label IS NULL) || ' without a label, on '
    || count(DISTINCT rois.slide) || ' slides, from '
    || (SELECT count(*) FROM roi_files) || ' files'
    || coalesce((
        SELECT concat('; looked at, without an ROI: ', string_agg(seen.slide, ', ' ORDER BY seen.slide))
        FROM (
            SELECT looked_at.slide
            FROM looked_at
            GROUP BY looked_at.slide
            HAVING sum(looked_at.rois) = 0
        ) AS seen
        HAVING count(*) > 0
    ), '') AS detail,
FROM rois
UNION ALL
SELECT
    'ROIs to add again' AS what,
    count(*) AS count,
    'an older slideduck gave these other shapes than their drawings have: '
    || string_agg(outdated.called, ', ' ORDER BY outdated.number) FILTER (WHERE outdated.number <= 20)
    || CASE WHEN count(*) > 20 THEN ' and ' || (count(*) - 20) || ' more' ELSE '' END
    || '; type ' || string_agg(DISTINCT outdated.remedy, '; ' ORDER BY outdated.remedy)
    || ' and label again' AS detail,
FROM outdated
HAVING count(*) > 0
UNION ALL
SELECT
    'labels' AS what,
    count(DISTINCT known.label) AS count,
    coalesce(string_agg(DISTINCT known.label, ', ' ORDER BY known.label), 'none') AS detail,
FROM (
    SELECT rois.label FROM rois
    UNION ALL
    SELECT unnest(label_sets.classes) AS label FROM label_sets
) AS known
UNION ALL
SELECT
    'sets of labels' AS what,
    count(*) AS count,
    string_agg(concat(
        label_sets.name, ': ',
        CASE label_sets.kind WHEN 'soft' THEN 'soft labels' ELSE label_sets.kind END,
        ' of ', split_part(label_sets.content, ':', 1), ' tiles of ', grids.grid, ', from ', label_sets.source
    ), '; ' ORDER BY label_sets.name, grids.grid) AS detail,
FROM label_sets
INNER JOIN grids ON label_sets.grid_id = grids.grid_id
HAVING count(*) > 0
UNION ALL
SELECT
    'grids' AS what,
    count(*) AS count,
    coalesce(string_agg(grids.grid, ', ' ORDER BY grids.grid), 'none') AS detail,
FROM grids
UNION ALL
SELECT
    'tiles' AS what,
    coalesce(sum(grid_slides.n_columns::BIGINT * grid_slides.n_rows), 0)::BIGINT AS count,
    (
        SELECT count(*)
        FROM grid_slides AS laid
        ANTI JOIN labelled ON laid.grid_id = labelled.grid_id AND laid.slide_id = labelled.slide_id
    )
    || ' slides to label' AS detail,
FROM grid_slides
UNION ALL
SELECT
    'label rule' AS what,
    count(*) AS count,
    coalesce(any_value(concat(
        label_rule.rule,
        CASE WHEN label_rule.rule = 'coverage' THEN ' of at least ' || label_rule.threshold ELSE '' END,
        ', overlaps: ', label_rule.overlap,
        CASE WHEN label_rule.overlap = 'priority' THEN ' (' || array_to_string(label_rule.priority, ', ') || ')' END,
        ', method: ', label_rule.method,
        ', artifacts: ' || nullif(array_to_string(label_rule.artifact_labels, ', '), ''),
        ', sets: ' || nullif(array_to_string(label_rule.roi_sets, ', '), 'default'),
        ', labels from: ' || nullif(array_to_string(label_rule.labels_from, ', '), 'rois')
    )), 'none') AS detail,
FROM label_rule
UNION ALL
SELECT
    'split' AS what,
    count(*) AS count,
    coalesce(any_value(
        CASE split_rule.kind
            WHEN 'column'
                THEN concat(
                    'by column ''', split_rule.column_name, '''',
                    ', ' || split_rule.n_folds || ' folds, fold ' || split_rule.val_fold || ' validates'
                )
            WHEN 'fraction' THEN concat('fraction ', split_rule.val_fraction, ', seed ', split_rule.seed)
            ELSE concat(
                split_rule.n_folds, ' folds',
                CASE WHEN split_rule.kind = 'site_folds' THEN ' that preserve sites' ELSE '' END,
                ', seed ', split_rule.seed, ', fold ', split_rule.val_fold, ' validates'
            )
        END
    ), 'none') AS detail,
FROM split_rule
UNION ALL
SELECT
    'predictions' AS what,
    count(*) AS count,
    coalesce(string_agg(DISTINCT predictions.run, ', ' ORDER BY predictions.run), 'none') AS detail,
FROM predictions
