-- conflicts: the tiles that lie in several ROIs of the set in force, and in which.
--
-- Grain: one row per tile that two or more ROIs hold by the rule in force.
-- Lists: one item per ROI, in the order in which they win the tile; the first is the one whose name it has.
-- Edge rules: having no label counts as a label of its own. label is that of the view labels: NULL where an
--     artifact is among the ROIs, and under exclude where labels differ.
CREATE OR REPLACE VIEW conflicts AS
WITH overlapped AS (
    SELECT
        held_roi.grid_id,
        held_roi.slide_id,
        held_roi.slide,
        held_roi.grid_x,
        held_roi.grid_y,
        -- Sorted once it is a list: an aggregate with an order of its own takes six times as long.
        list_sort(list({
            'rank': held_roi.rank,
            'roi_name': held_roi.roi_name,
            'label': held_roi.label,
            'coverage': held_roi.coverage
        })) AS holders,
        min(held_roi.label_number) <> max(held_roi.label_number) AS labels_differ,
        any_value(held_roi.overlap) AS overlap,
        bool_or(held_roi.is_artifact) AS in_artifact,
    FROM held_roi
    WHERE held_roi.in_force
    GROUP BY held_roi.grid_id, held_roi.slide_id, held_roi.slide, held_roi.grid_x, held_roi.grid_y
    HAVING count(*) > 1
)

SELECT
    make_tile_id(
        overlapped.slide,
        tile_location(
            overlapped.grid_x, grid_on_slide.stride, grid_on_slide.extract_px, grid_on_slide.origin_x
        ),
        tile_location(
            overlapped.grid_y, grid_on_slide.stride, grid_on_slide.extract_px, grid_on_slide.origin_y
        )
    ) AS tile_id,
    overlapped.slide,
    overlapped.grid_x,
    overlapped.grid_y,
    grid_on_slide.grid,
    CASE
        WHEN
            roi_labels_tile(
                CASE
                    WHEN
                        is_kept(label_rule.method, true, overlapped.in_artifact, slide_roi_set.has_regions)
                        AND NOT (overlapped.overlap = 'exclude' AND overlapped.labels_differ)
                        THEN overlapped.holders[1].label
                END,
                label_rule.labels_from,
                given_label.place
            )
            THEN overlapped.holders[1].label
        WHEN NOT overlapped.in_artifact THEN given_label.label
    END AS label,
    overlapped.labels_differ,
    list_transform(overlapped.holders, LAMBDA held: held['roi_name']) AS roi_names,
    list_transform(overlapped.holders, LAMBDA held: held['label']) AS labels,
    list_transform(overlapped.holders, LAMBDA held: held['coverage']) AS coverages,
FROM overlapped
INNER JOIN grid_on_slide
    ON overlapped.grid_id = grid_on_slide.grid_id AND overlapped.slide_id = grid_on_slide.slide_id
INNER JOIN slide_roi_set ON overlapped.slide = slide_roi_set.slide
CROSS JOIN label_rule
LEFT JOIN given_label
    ON
        overlapped.grid_id = given_label.grid_id
        AND overlapped.slide_id = given_label.slide_id
        AND overlapped.slide = given_label.slide
        AND overlapped.grid_x = given_label.grid_x
        AND overlapped.grid_y = given_label.grid_y;
COMMENT ON VIEW conflicts IS 'The tiles that lie in several ROIs of the set in force, and in which.';
COMMENT ON COLUMN conflicts.tile_id IS 'The tile, as in the view labels.';
COMMENT ON COLUMN conflicts.slide IS 'Name of the slide.';
COMMENT ON COLUMN conflicts.grid_x IS 'Column of the tile.';
COMMENT ON COLUMN conflicts.grid_y IS 'Row of the tile.';
COMMENT ON COLUMN conflicts.grid IS 'Name of the grid.';
COMMENT ON COLUMN conflicts.label IS 'The label that the tile has, as in the view labels.';
COMMENT ON COLUMN conflicts.labels_differ IS 'True if the labels of the ROIs differ; having none counts as one.';
COMMENT ON COLUMN conflicts.roi_names IS 'Names of the ROIs, the winner first.';
COMMENT ON COLUMN conflicts.labels IS 'Their labels.';
COMMENT ON COLUMN conflicts.coverages IS 'Part of the tile that each of them covers, 0 to 1.';
