-- insert_tile_rois: every pair of a tile and an ROI that touch, with the tile's centre and its coverage.
--
-- Grain: one row per (grid, slide, grid_x, grid_y, ROI) of the grid $grid_id and the slides $slide_ids.
-- Source: the areas are Green's theorem on the outline, summed cell by cell as font rasterisers do
--     (signed area and cover); the centres are the even-odd rule on the horizontal line through them.
-- Edge rules: a band is a row of tiles; bands and columns overlap where the stride is less than the tile.
--     An event at column g changes the cover of the columns right of g, and adds its own area to g.
--     Heights are counted in units of 2^-32 base pixels, so that sums are exact, and so equal in any order.
--     A centre within $epsilon base pixels of an edge is decided by ST_Intersects, which is exact.
INSERT INTO tile_rois
WITH laid_roi AS (
    SELECT
        rois.roi_id,
        grid_slides.grid_id,
        grid_slides.slide_id,
        grid_slides.extract_px::DOUBLE AS side,
        grid_slides.stride::DOUBLE AS stride,
        grid_slides.n_columns,
        grid_slides.n_rows,
        grids.origin_x::DOUBLE AS origin_x,
        grids.origin_y::DOUBLE AS origin_y,
        rois.geom,
    FROM grid_slides
    INNER JOIN grids ON grid_slides.grid_id = grids.grid_id
    INNER JOIN slides ON grid_slides.slide_id = slides.slide_id
    INNER JOIN rois ON slides.slide = rois.slide
    WHERE
        grid_slides.grid_id = $grid_id
        AND list_contains($slide_ids, grid_slides.slide_id)
        AND grid_slides.n_columns > 0
        AND grid_slides.n_rows > 0
        AND rois.parent IS NULL
),

ring AS (
    SELECT
        polygon.* EXCLUDE (rings),
        unnest(polygon.rings) AS vertices,
    FROM (
        SELECT
            dumped.* EXCLUDE (part),
            dumped.part.geom::POLYGON_2D AS rings,
        FROM (
            SELECT
                laid_roi.* EXCLUDE (geom),
                unnest(ST_Dump(laid_roi.geom)) AS part,
            FROM laid_roi
        ) AS dumped
    ) AS polygon
),

-- Edges in the frame of the grid: its origin is (0, 0). Materialised, because all threads then share what follows:
-- the few rows of rois are read by one.
edge AS MATERIALIZED (
    SELECT
        pair.* EXCLUDE (a, b, origin_x, origin_y),
        pair.a.x - pair.origin_x AS x1,
        pair.a.y - pair.origin_y AS y1,
        pair.b.x - pair.origin_x AS x2,
        pair.b.y - pair.origin_y AS y2,
    FROM (
        SELECT
            ring.* EXCLUDE (vertices),
            unnest(list_slice(ring.vertices, 1, len(ring.vertices) - 1)) AS a,
            unnest(list_slice(ring.vertices, 2, len(ring.vertices))) AS b,
        FROM ring
    ) AS pair
),

edge_band AS NOT MATERIALIZED (
    SELECT
        banded.*,
        banded.grid_y * banded.stride AS top,
    FROM (
        SELECT
            edge.*,
            unnest(numbers_from(
                greatest(ceil((least(edge.y1, edge.y2) - edge.side) / edge.stride), 0)::BIGINT,
                least(floor(greatest(edge.y1, edge.y2) / edge.stride), edge.n_rows - 1)::BIGINT + 1
            )) AS grid_y,
        FROM edge
    ) AS banded
),

-- The part of each edge in each band, from (xa, ya) to (xb, yb).
clipped AS NOT MATERIALIZED (
    SELECT
        cut.*,
        CASE cut.ya
            WHEN cut.y1 THEN cut.x1
            WHEN cut.y2 THEN cut.x2
            ELSE cut.x1 + (cut.ya - cut.y1) * cut.slope
        END AS xa,
        CASE cut.yb
            WHEN cut.y2 THEN cut.x2
            WHEN cut.y1 THEN cut.x1
            ELSE cut.x1 + (cut.yb - cut.y1) * cut.slope
        END AS xb,
        cut.x1 + (cut.centre_y - cut.y1) * cut.slope AS centre_x,
        (cut.y1 <= cut.centre_y) <> (cut.y2 <= cut.centre_y) AS crosses,
    FROM (
        SELECT
            edge_band.*,
            -- A level edge has no slope; its two ends are what counts.
            CASE
                WHEN edge_band.y1 = edge_band.y2 THEN 0
                ELSE (edge_band.x2 - edge_band.x1) / (edge_band.y2 - edge_band.y1)
            END AS slope,
            clamp(edge_band.y1, edge_band.top, edge_band.top + edge_band.side) AS ya,
            clamp(edge_band.y2, edge_band.top, edge_band.top + edge_band.side) AS yb,
            edge_band.top + edge_band.side / 2 AS centre_y,
        FROM edge_band
    ) AS cut
),

-- Columns that the part touches: first_x to last_x; centres right of centre_column see the crossing.
piece AS (
    SELECT
        spanned.*,
        greatest(floor((spanned.x_min - spanned.side) / spanned.stride) + 1, 0)::BIGINT AS first_x,
        greatest(ceil(spanned.x_max / spanned.stride) - 1, -1)::BIGINT AS last_x,
        CASE
            WHEN spanned.crosses
                THEN greatest(floor((spanned.centre_x - spanned.side / 2) / spanned.stride), -1)::BIGINT
        END AS centre_column,
    FROM (
        SELECT
            clipped.*,
            least(clipped.xa, clipped.xb) AS x_min,
            greatest(clipped.xa, clipped.xb) AS x_max,
            round(clipped.yb * 4294967296)::BIGINT - round(clipped.ya * 4294967296)::BIGINT AS height,
        FROM clipped
    ) AS spanned
),

event AS (
    SELECT
        struck.roi_id,
        struck.grid_y,
        struck.grid_x,
        struck.last_x,
        struck.first_x,
        struck.height,
        struck.x_min,
        struck.x_max,
        struck.centre_column,
        struck.y1 < struck.y2 AS downwards,
        struck.side,
        (struck.grid_x * struck.stride + struck.side) AS right_x,
    FROM (
        SELECT
            piece.*,
            unnest(numbers_from(
                least(piece.first_x, piece.last_x, coalesce(piece.centre_column, piece.last_x)),
                least(greatest(piece.last_x, coalesce(piece.centre_column, piece.last_x)), piece.n_columns - 1) + 1
            )) AS grid_x,
        FROM piece
        WHERE piece.height <> 0 OR piece.crosses
    ) AS struck
),

-- The tile's share of the area right of the piece is height × the mean of clamp(right_x - x, 0, side). The width of the
-- piece within the tile is a difference of two of its own ends: that of two distances would cancel where it is narrow.
cell AS (
    SELECT
        event.roi_id,
        event.grid_y,
        event.grid_x,
        sum(
            CASE
                WHEN event.grid_x < event.first_x OR event.grid_x > event.last_x THEN 0
                WHEN event.x_max = event.x_min
                    THEN round(event.height * least(greatest(event.right_x - event.x_min, 0), event.side))::BIGINT
                ELSE round(event.height * (
                    (least(event.x_max, event.right_x) - greatest(event.x_min, event.right_x - event.side))
                    * (least(event.right_x - event.x_min, event.side) + greatest(event.right_x - event.x_max, 0)) / 2
                    + greatest(event.right_x - event.side - event.x_min, 0) * event.side
                ) / (event.x_max - event.x_min))::BIGINT
            END
        ) AS area,
        sum(CASE WHEN event.grid_x = event.last_x THEN event.height ELSE 0 END) AS cover,
        sum(
            CASE WHEN event.grid_x = event.centre_column THEN CASE WHEN event.downwards THEN 1 ELSE -1 END ELSE 0 END
        ) AS winding,
    FROM event
    GROUP BY event.roi_id, event.grid_y, event.grid_x
),

swept AS (
    SELECT
        cell.*,
        sum(cell.cover) OVER to_here AS cover_to_here,
        sum(cell.winding) OVER to_here AS winding_to_here,
        lead(cell.grid_x) OVER to_here AS next_x,
    FROM cell
    WINDOW to_here AS (PARTITION BY cell.roi_id, cell.grid_y ORDER BY cell.grid_x ROWS UNBOUNDED PRECEDING)
),

touched AS (
    SELECT
        run.roi_id,
        run.grid_x,
        run.grid_y,
        run.winding_to_here <> CASE WHEN run.grid_x = run.event_x THEN run.winding ELSE 0 END AS centre,
        CASE
            WHEN run.grid_x = run.event_x
                THEN least(
                    abs(run.area + run.side * (run.cover_to_here - run.cover)) / (run.side * run.side * 4294967296), 1
                )
            ELSE abs(run.cover_to_here) / (run.side * 4294967296)
        END AS coverage,
    FROM (
        SELECT
            swept.* EXCLUDE (grid_x),
            laid_roi.side,
            swept.grid_x AS event_x,
            unnest(range(
                swept.grid_x,
                CASE
                    WHEN swept.cover_to_here = 0 THEN swept.grid_x + 1
                    ELSE coalesce(swept.next_x, laid_roi.n_columns)
                END
            )) AS grid_x,
        FROM swept
        INNER JOIN laid_roi ON swept.roi_id = laid_roi.roi_id
    ) AS run
    WHERE run.grid_x >= 0
),

-- Centres so near an edge that rounding could put them on the wrong side. Few edges reach a line of centres, but for
-- the outlines of pixels, where a centre often lies on an edge: one that is level or upright is where its bounds are.
doubtful AS (
    SELECT
        reached.roi_id,
        reached.grid_y,
        reached.grid_x,
        bool_or(
            (reached.x1 = reached.x2 OR reached.y1 = reached.y2)
            AND reached.centre_y BETWEEN least(reached.y1, reached.y2) AND greatest(reached.y1, reached.y2)
            AND reached.grid_x * reached.stride + reached.side / 2
            BETWEEN least(reached.x1, reached.x2) AND greatest(reached.x1, reached.x2)
        ) AS on_edge,
    FROM (
        SELECT
            near.*,
            unnest(range(
                greatest(ceil((least(near.x_start, near.x_end) - $epsilon - near.side / 2) / near.stride), 0)::BIGINT,
                clamp(
                    floor((greatest(near.x_start, near.x_end) + $epsilon - near.side / 2) / near.stride),
                    -1,
                    near.n_columns - 1
                )::BIGINT + 1
            )) AS grid_x,
        FROM (
            -- The part of the edge that is as near the line of centres; a level edge is near it all along.
            SELECT
                reaching.*,
                CASE
                    WHEN reaching.y1 = reaching.y2 THEN reaching.x1
                    ELSE reaching.x1 + (reaching.x2 - reaching.x1) / (reaching.y2 - reaching.y1) * (
                        clamp(reaching.y1, reaching.centre_y - $epsilon, reaching.centre_y + $epsilon) - reaching.y1
                    )
                END AS x_start,
                CASE
                    WHEN reaching.y1 = reaching.y2 THEN reaching.x2
                    ELSE reaching.x1 + (reaching.x2 - reaching.x1) / (reaching.y2 - reaching.y1) * (
                        clamp(reaching.y2, reaching.centre_y - $epsilon, reaching.centre_y + $epsilon) - reaching.y1
                    )
                END AS x_end,
            FROM (
                SELECT
                    lined.*,
                    lined.grid_y * lined.stride + lined.side / 2 AS centre_y,
                FROM (
                    SELECT
                        spanning.*,
                        unnest(range(spanning.first_y, spanning.last_y + 1)) AS grid_y,
                    FROM (
                        SELECT
                            edge.*,
                            greatest(
                                ceil((least(edge.y1, edge.y2) - $epsilon - edge.side / 2) / edge.stride), 0
                            )::BIGINT AS first_y,
                            least(
                                floor((greatest(edge.y1, edge.y2) + $epsilon - edge.side / 2) / edge.stride),
                                edge.n_rows - 1
                            )::BIGINT AS last_y,
                        FROM edge
                    ) AS spanning
                    WHERE spanning.first_y <= spanning.last_y
                ) AS lined
            ) AS reaching
        ) AS near
    ) AS reached
    GROUP BY reached.roi_id, reached.grid_y, reached.grid_x
),

decided AS (
    SELECT
        doubtful.roi_id,
        doubtful.grid_x,
        doubtful.grid_y,
        -- Not OR, of which DuckDB computes both sides for every row.
        CASE
            WHEN doubtful.on_edge THEN true
            ELSE ST_Intersects(
                laid_roi.geom,
                ST_Point(
                    laid_roi.origin_x + doubtful.grid_x * laid_roi.stride + laid_roi.side / 2,
                    laid_roi.origin_y + doubtful.grid_y * laid_roi.stride + laid_roi.side / 2
                )
            )
        END AS centre,
    FROM doubtful
    INNER JOIN laid_roi ON doubtful.roi_id = laid_roi.roi_id
)

SELECT
    laid_roi.grid_id,
    laid_roi.slide_id,
    pair.grid_x,
    pair.grid_y,
    pair.roi_id,
    pair.centre,
    pair.coverage,
FROM (
    SELECT
        coalesce(touched.roi_id, decided.roi_id) AS roi_id,
        coalesce(touched.grid_x, decided.grid_x)::INTEGER AS grid_x,
        coalesce(touched.grid_y, decided.grid_y)::INTEGER AS grid_y,
        coalesce(decided.centre, touched.centre) AS centre,
        coalesce(touched.coverage, 0) AS coverage,
    FROM touched
    FULL OUTER JOIN decided
        ON touched.roi_id = decided.roi_id AND touched.grid_x = decided.grid_x AND touched.grid_y = decided.grid_y
) AS pair
INNER JOIN laid_roi ON pair.roi_id = laid_roi.roi_id
WHERE pair.centre OR pair.coverage > 0
