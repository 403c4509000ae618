"""Limits on ROI files, masks and tables: bombs end with a message, which says how a file that is meant gets on."""

from __future__ import annotations

import gzip
import io
import json
import re
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import slideduck as sd
from slideduck.catalog.mpps import read_mpp_table
from slideduck.catalog.patients import parse_patients
from slideduck.cli.group import cli
from slideduck.errors import InputError
from slideduck.limit import limits, parse_limits
from slideduck.roifiles.read import parse_roi_file
from slideduck.rois.pixels import open_mask

MEBI = 1 << 20
INSERT = "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples) VALUES ('s', 's', 100, 100, 1, [1])"
FIVE = "roi_name,x_base,y_base\n" + "".join(f"a,{x},{y}\n" for x, y in ((0, 0), (9, 0), (9, 9), (5, 12), (0, 9)))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sd.Study]:
    with sd.open(tmp_path_factory.mktemp("limits") / "study.duckdb") as opened:
        opened.con.execute(INSERT)
        yield opened


def square(far: float = 10.0) -> list[tuple[float, float]]:
    return [(0.0, 0.0), (far, 0.0), (far, far), (0.0, far)]


def wkb(*rings: list[tuple[float, float]], closed: bool = True) -> bytes:
    data = struct.pack("<BII", 1, 3, len(rings))
    for ring in rings:
        points = [*ring, *(ring[:1] if closed else [])]
        data += struct.pack("<I", len(points)) + np.array(points, "<f8").tobytes()
    return data


def write_geoparquet(path: Path, geometry: bytes, outline: bytes | None = None) -> Path:
    columns = {"roi_name": ["a"], "geometry": pa.array([geometry], pa.binary())}
    if outline is not None:
        columns["outline"] = pa.array([outline], pa.binary())
    column: dict[str, object] = {"encoding": "WKB", "geometry_types": [], "crs": None}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    pq.write_table(pa.table(columns).replace_schema_metadata({"geo": json.dumps(geo)}), path)
    return path


def geojson(ring: list[tuple[float, float]]) -> str:
    geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    return json.dumps({"type": "Feature", "properties": {"name": "a"}, "geometry": geometry})


def imagescope(ring: list[tuple[float, float]]) -> str:
    points = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ring)
    return (
        '<Annotations><Annotation Name="t"><Regions><Region Id="1" Text="a"><Vertices>'
        f"{points}</Vertices></Region></Regions></Annotation></Annotations>"
    )


def asap(ring: list[tuple[float, float]]) -> str:
    points = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(ring))
    return (
        '<ASAP_Annotations><Annotations><Annotation Name="a" Type="Polygon" PartOfGroup="t"><Coordinates>'
        f"{points}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )


def ndpa(ring: list[tuple[float, float]]) -> str:
    points = "".join(f"<point><x>{x}</x><y>{y}</y></point>" for x, y in ring)
    return (
        '<annotations><ndpviewstate id="1"><title>a</title><coordformat>nanometers</coordformat>'
        f'<annotation type="freehand"><pointlist>{points}</pointlist></annotation></ndpviewstate></annotations>'
    )


def slideflow(ring: list[tuple[float, float]]) -> str:
    return "roi_name,x_base,y_base\n" + "".join(f"a,{x},{y}\n" for x, y in ring)


FORMATS: dict[str, Callable[[list[tuple[float, float]]], str]] = {
    "s.csv": slideflow, "s.geojson": geojson, "s.xml": imagescope, "s2.xml": asap, "s.ndpa": ndpa,
}  # fmt: skip


def problems(path: Path, read: Callable[[Path], Any] = parse_roi_file) -> list[str]:
    with pytest.raises(InputError) as caught:
        read(path)
    return list(caught.value.problems)


def gets_on(path: Path, read: Callable[[Path], Any] = parse_roi_file, **low: int) -> list[str]:
    """Return what is said under limits, after having typed what it says, as often as it says something else."""
    said: list[str] = []
    allowed: dict[str, int] = {}
    for _ in range(5):
        with limits(**{**low, **allowed}):
            try:
                read(path)
            except InputError as error:
                (problem,) = error.problems
                said.append(problem)
                (text,) = re.findall(r"`limit='(\w+=\d+)'`", problem)
                allowed |= parse_limits((text,))
            else:
                return said
    raise AssertionError(said)


# -------------------------------------------------------------------------------------- coordinates


@pytest.mark.attack("bytes", "an ROI with a point at 1e300, which no label could be computed of")
@pytest.mark.parametrize("name", FORMATS)
def test_points_beyond_any_slide_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(FORMATS[name](square(1e300)))
    unit = "nanometres" if name.endswith("ndpa") else "base pixels"
    place = {"s.csv": ":2", "s.geojson": ":feature 1"}.get(name, ":1")
    assert problems(path) == [
        f"{name}{place}: ROI 'a' has a point 1e+300 {unit} from the corner; coordinates lie within 1,000,000,000 of "
        "it: draw it again or remove it"
    ]
    path.write_text(FORMATS[name](square(1e9)))
    assert len(parse_roi_file(path).outlines) == 1


def test_points_beyond_any_slide_are_refused_in_geoparquet(tmp_path: Path) -> None:
    assert problems(write_geoparquet(tmp_path / "s.parquet", wkb(square(-1e300)))) == [
        "s.parquet:1: ROI 'a' has a point 1e+300 base pixels from the corner; coordinates lie within 1,000,000,000 of "
        "it: draw it again or remove it"
    ]


# ------------------------------------------------------------------------------ well-known binary

OPEN = wkb(square(), closed=False)


@pytest.mark.attack("bytes", "well-known binary with rings that do not close, wrong counts, and bytes left over")
def test_damaged_well_known_binary_is_refused_beside_an_outline_too(tmp_path: Path) -> None:
    deep = struct.pack("<BII", 1, 7, 1) * 200 + wkb(square())
    for geometry, what in (
        (wkb(square())[:-1], "cut short after 92 bytes"),
        (wkb(square()) + b"xx", "2 bytes too many"),
        (struct.pack("<BIII", 1, 3, 1, 2**32 - 1), "cut short after 13 bytes"),
        (struct.pack("<BII", 1, 6, 2**32 - 1), "cut short after 9 bytes"),
        (b"\2" + wkb(square())[1:], "byte order 2, which is neither 0 nor 1"),
        (struct.pack("<BI", 1, 1), "cut short after 5 bytes"),
        (
            deep,
            "it has 101 or more levels of nesting in one JSON or XML file, and at most 100 are read; if the file is "
            "meant, allow that many with `limit='depth=101'`",
        ),
    ):
        assert problems(write_geoparquet(tmp_path / "s.parquet", geometry)) == [
            f"s.parquet:1: the geometry of ROI 'a' is broken: {what}; write the file again"
        ]
        assert problems(write_geoparquet(tmp_path / "s.parquet", geometry, wkb(square()))) == [
            f"s.parquet:1: the geometry beside the outline of ROI 'a' is broken: {what}; write the file again"
        ]
    with limits(depth=201):
        assert len(parse_roi_file(write_geoparquet(tmp_path / "s.parquet", deep)).outlines) == 1
    with limits(depth=10**6):
        endless = struct.pack("<BII", 1, 7, 1) * 10_000
        assert problems(write_geoparquet(tmp_path / "s.parquet", endless)) == [
            "s.parquet:1: the geometry of ROI 'a' is broken: collections in more collections than can be read; write "
            "the file again"
        ]


def test_rings_that_do_not_close_are_read_alike_with_an_outline_and_without(study: sd.Study, tmp_path: Path) -> None:
    """The geometry beside an outline went to the database as it was, which ended with a traceback."""
    for outline in (None, OPEN):
        path = write_geoparquet(tmp_path / "s.parquet", OPEN, outline)
        (roi,) = parse_roi_file(path).outlines
        assert roi.polygons[0][0].tolist() == [list(point) for point in square()]
    flat = wkb(square()[:2], closed=False)
    assert problems(write_geoparquet(tmp_path / "s.parquet", flat, OPEN)) == [
        "s.parquet:1: geometry of ROI 'a' is not its outline without its holes, so that one of them was changed; "
        "leave out the column outline to take geometry as it is"
    ]
    nan = wkb([(0, 0), (float("nan"), 0), (1, 1)])
    assert problems(write_geoparquet(tmp_path / "s.parquet", nan, OPEN)) == [
        "s.parquet:1: the geometry beside the outline of ROI 'a' is broken: a point that is not finite; write the "
        "file again"
    ]


# ------------------------------------------------------------------------------------ text and XML


@pytest.mark.attack("bombs", "ROI files of more vertices than the limit")
@pytest.mark.parametrize("name", FORMATS)
def test_vertices_are_limited(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(FORMATS[name]([(0, 0), (9, 0), (9, 9), (5, 12), (0, 9)]))
    said = gets_on(path, vertices=3)
    assert said
    assert re.fullmatch(
        rf"{name}(:1)?: it has \d+ or more vertices in one ROI file, and at most 3 are read; if the file is meant, "
        r"allow that many with `limit='vertices=\d+'`",
        said[0],
    )


@pytest.mark.attack("bombs", "more ROIs in one file than the limit")
def test_rois_are_limited(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text(slideflow(square()) + slideflow(square()).partition("\n")[2].replace("a,", "b,"))
    assert gets_on(path, rois=1) == [
        "s.csv: it has 2 or more ROIs in one file, and at most 1 are read; if the file is meant, allow that many with "
        "`limit='rois=2'`"
    ]


@pytest.mark.attack("XML and JSON", "JSON and XML of a hundred thousand levels")
def test_depth_is_limited(tmp_path: Path) -> None:
    deep = {"s.geojson": "[" * 100_000 + "]" * 100_000, "s.xml": "<Annotations>" * 100_000}
    for name, text in deep.items():
        (tmp_path / name).write_text(text)
        (problem,) = problems(tmp_path / name)
        found = "100,000" if name == "s.geojson" else "101"
        assert f"it has {found} or more levels of nesting in one JSON or XML file" in problem
    with limits(depth=10**6):
        (problem,) = problems(tmp_path / "s.geojson")
    assert problem.startswith("s.geojson:1: JSON that cannot be read: ")
    # Brackets within texts are none.
    (tmp_path / "s.geojson").write_text(geojson(square()).replace('"a"', json.dumps('"[' * 300)))
    assert len(parse_roi_file(tmp_path / "s.geojson").outlines) == 1
    nested = {"type": "GeometryCollection", "geometries": [json.loads(geojson(square()))["geometry"]]}
    for _ in range(60):
        nested = {"type": "GeometryCollection", "geometries": [nested]}
    (tmp_path / "s.geojson").write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": nested}))
    (said,) = gets_on(tmp_path / "s.geojson")
    assert said.endswith("allow that many with `limit='depth=127'`")


@pytest.mark.attack("XML and JSON", "entities that grow a thousandfold, or name another file, in XML")
def test_entities_are_refused(tmp_path: Path) -> None:
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "ha"}">' for i in range(10))
    for text in (f"<!DOCTYPE a [{laughs}]>", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'):
        (tmp_path / "s.xml").write_text(f"{text}<Annotations>&l9;&x;</Annotations>")
        assert problems(tmp_path / "s.xml") == [
            "s.xml:1: declares a document type (<!DOCTYPE ...>), which could define entities and is refused; take the "
            "declaration out"
        ]


def test_long_texts_and_numbers_of_xml_take_no_time(tmp_path: Path) -> None:
    (tmp_path / "s.ndpa").write_text(ndpa(square()).replace("<title>a", "<title>" + "a" * (20 * MEBI)))
    assert len(parse_roi_file(tmp_path / "s.ndpa").outlines[0].roi_name) == 20 * MEBI
    (tmp_path / "s.xml").write_text(asap(square()).replace('Order="1"', f'Order="{"1" * 5000}"'))
    assert len(parse_roi_file(tmp_path / "s.xml").outlines) == 1


# ---------------------------------------------------------------------------- archives and tables


def zipped(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.attack("archives", "gzip and zip that unpack to a thousand times their size")
@pytest.mark.parametrize("pack", [gzip.compress, lambda data: zipped(("a", data))])
def test_bombs_are_not_unpacked(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "s.gz"
    path.write_bytes(pack(FIVE.encode() + b" " * (70 * MEBI)))
    (problem,) = gets_on(path)
    assert re.fullmatch(
        r"s.gz:1: it unpacks to 71 or more MB, [\d,]+ times its size, as only a bomb does; if it is meant, allow that "
        r"many with `limit='unpacked_mb=71'`",
        problem,
    )
    path.write_bytes(pack(FIVE.encode() + np.random.default_rng(0).bytes(2 * MEBI).hex().encode()))
    with limits(unpacked_mb=2):
        assert problems(path) == [
            "s.gz:1: it has 5 or more MB in one packed file once it is unpacked, and at most 2 are read; if the file "
            "is meant, allow that many with `limit='unpacked_mb=5'`"
        ]


@pytest.mark.attack("archives", "zip archives with names that lead out of the folder")
def test_names_in_archives_are_never_paths(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("../../x.csv", "/etc/x.csv", "a\\..\\x.csv"):
        (folder / "s.zip").write_bytes(zipped((name, FIVE.encode())))
        assert [roi.slide for roi in parse_roi_file(folder / "s.zip").outlines] == ["s"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "s.zip"]


@pytest.mark.attack("archives", "archives in archives, of several files, and with a password")
def test_archives_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.zip"
    path.write_bytes(zipped(("a.zip", zipped(("b.csv", FIVE.encode())))))
    assert problems(path)[0].startswith("s.zip:1: not text")
    locked = bytearray(zipped(("a.csv", FIVE.encode())))
    locked[6] |= 1
    locked[locked.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(locked)
    (problem,) = problems(path)
    assert problem.startswith("s.zip:1: cannot be unpacked: File ")
    assert problem.endswith(" is encrypted, password required for extraction; pack or export it again")


@pytest.mark.attack("bombs", "files larger than the limit, and files without an end")
def test_the_size_of_files_is_limited(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text(FIVE + "\n" * (2 * MEBI))
    assert gets_on(path, file_mb=2) == [
        "s.csv: it has 3 or more MB in one ROI file, table or side-car, and at most 2 are read; if the file is meant, "
        "allow that many with `limit='file_mb=3'`"
    ]
    with limits(file_mb=2):
        assert problems(Path("/dev/zero"))[0].startswith("zero: it has 3 or more MB in one ROI file")
        assert problems(path, read_mpp_table)[0].startswith("s.csv: it has 3 or more MB")


@pytest.mark.attack("bombs", "an Excel workbook that unpacks to a thousand times its size")
def test_a_workbook_that_is_a_bomb_is_refused(tmp_path: Path) -> None:
    good = Path(__file__).parents[1] / "files" / "workbooks" / "xlsxwriter.xlsx"
    with zipfile.ZipFile(good) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    strings = [
        (name, data.replace(b"</sst>", b"<si><t/></si>" * (6 * MEBI) + b"</sst>") if "sharedStrings" in name else data)
        for name, data in members
    ]
    (tmp_path / "p.xlsx").write_bytes(zipped(*strings))
    (problem,) = problems(tmp_path / "p.xlsx", parse_patients)
    assert re.fullmatch(
        r"p.xlsx: it unpacks to \d+ or more MB, [\d,]+ times its size, as only a bomb does; if it is meant, allow that "
        r"many with `limit='unpacked_mb=\d+'`",
        problem,
    )
    with limits(unpacked_mb=1), pytest.raises(InputError, match=r"p\.xlsx: it has 7. or more MB in one packed file"):
        parse_patients(tmp_path / "p.xlsx")


@pytest.mark.attack("bombs", "a Parquet file of which one value counts a million times")
def test_a_parquet_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    big = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * 100_000]))
    pq.write_table(pa.table({"slide": big, "patient": big}), path)
    assert path.stat().st_size < MEBI
    (problem,) = problems(path, parse_patients)
    assert re.fullmatch(
        r"p.parquet: it unpacks to 1,908 or more MB, [\d,]+ times its size, as only a bomb does; if it is meant, allow "
        r"that many with `limit='unpacked_mb=1908'`",
        problem,
    )
    pq.write_table(pa.table({"slide": ["s"], "patient": ["p"]}), path)
    with limits(unpacked_mb=1):
        assert parse_patients(path).table.num_rows == 1


# ------------------------------------------------------------------------------------------- masks


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    ends = ((b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunk(*part) for part in (*chunks, *ends))


@pytest.mark.attack("bombs", "masks that claim billions of pixels in a few bytes")
def test_masks_that_claim_more_than_the_limit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.png"
    path.write_bytes(png(60_000, 60_000))
    assert problems(path, open_mask) == [
        "s.png: it has 3,600,000,000 or more pixels in one picture that is decoded whole, and at most 1,000,000,000 "
        "are read; if the file is meant, allow that many with `limit='pixels=3600000000'`"
    ]
    Image.new("L", (20, 10)).save(path)
    assert gets_on(path, open_mask, pixels=100) == [
        "s.png: it has 200 or more pixels in one picture that is decoded whole, and at most 100 are read; if the file "
        "is meant, allow that many with `limit='pixels=200'`"
    ]
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((40, 50), np.uint8), rowsperstrip=40, compression="deflate")
    (problem,) = gets_on(tmp_path / "s.tif", open_mask, pixels=100)
    assert problem.startswith("s.tif: it has 2,000 or more pixels in one picture that is decoded whole")


@pytest.mark.attack("bombs", "PNG with texts that unpack to gigabytes")
def test_texts_of_a_png_are_no_way_in(tmp_path: Path) -> None:
    (tmp_path / "s.png").write_bytes(png(10, 10, (b"zTXt", b"a\0\0" + zlib.compress(b"0" * (100 * MEBI)))))
    (problem,) = problems(tmp_path / "s.png", open_mask)
    assert problem.startswith("s.png: a broken image: Decompressed data too large")
    information = PngInfo()
    information.add_text("a", "b" * 1000, zip=True)
    Image.new("L", (10, 10)).save(tmp_path / "s.png", pnginfo=information)
    assert next(iter(open_mask(tmp_path / "s.png").bands())).shape == (10, 10)


@pytest.mark.attack("bombs", "masks of noise, of more corners and values than there is memory for")
def test_masks_of_noise_are_refused(study: sd.Study, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (100, 100)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "s.png")
    with limits(vertices=1000), pytest.raises(InputError, match=r"s\.png: it has .* or more vertices in one ROI file"):
        study.add_masks(tmp_path / "s.png", {1: "a"})
    values = np.arange(400 * 400, dtype=np.uint32).reshape(400, 400)
    tifffile.imwrite(tmp_path / "s.tif", values)
    with pytest.raises(InputError, match=r"s.tif: .* values without a label"):
        study.add_masks(tmp_path / "s.tif", {1: "a"})
    assert study.con.execute("SELECT count(*) FROM rois").fetchall() == [(0,)]


# ------------------------------------------------------------------------------------- on the shell


def test_what_the_command_says_gets_on(tmp_path: Path) -> None:
    with sd.open(tmp_path / "study.duckdb") as other:
        other.con.execute(INSERT)
    (tmp_path / "s.csv").write_text(FIVE)
    command = ["add-rois", str(tmp_path / "study.duckdb"), str(tmp_path / "s.csv")]
    refused = CliRunner().invoke(cli, [*command, "--limit", "vertices=3"])
    assert refused.exit_code == 1
    assert refused.stderr.partition("error: ")[2] == (
        "s.csv: it has 6 or more vertices in one ROI file, and at most 3 are read; if the file is meant, allow "
        "that many with --limit vertices=6\n"
    )
    assert CliRunner().invoke(cli, [*command, "--limit", "vertices=6"]).exit_code == 0


BOMBS = """
import gzip, sys
from pathlib import Path
import slideduck as sd
from slideduck.roifiles.read import parse_roi_file
path = Path(sys.argv[1])
try:
    parse_roi_file(path)
except sd.InputError as error:
    print(error)
"""


def test_a_bomb_of_gigabytes_takes_little_memory(tmp_path: Path) -> None:
    """A process of its own, so that its memory can be measured; most of the seconds are its imports and the bomb."""
    path = tmp_path / "s.geojson.gz"
    member = gzip.compress(b"[[[[" * (16 * MEBI), 6)
    path.write_bytes(member * 40)  # 2.5 GB
    done = subprocess.run([sys.executable, "-c", BOMBS, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "as only a bomb does" in done.stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * MEBI
