"""The page holds what the study holds, runs nothing but its own script, and needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

import slideduck as sd
from slideduck.draw.page import page
from slideduck.errors import StudyError
from slideduck.palette import label_colours
from slideduck.slides.identity import SlideFile
from slideduck.slides.reader import thumbnail
from slideduck.words import printable
from tests.campaign import cases
from tests.rectangles import write_rois
from tests.slides import write_slide

NO_LABEL, REMOVED = -1, -2
VOID = {"meta", "img", "input", "br"}


@dataclass
class Element:
    """An element of a page: its name, attributes, and the text directly within it."""

    tag: str
    attributes: dict[str, str | None]
    text: str = ""
    within: list[str] = field(default_factory=list)


class Page(HTMLParser):
    """A page, read as a browser reads it as far as elements and their text go."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs), within=[outer.tag for outer in self._open])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs), within=[outer.tag for outer in self._open]))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1].text += data

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Return the elements of a name, and of attributes (``data_kind`` for ``data-kind``)."""
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return [e for e in self.elements if e.tag == tag and wanted.items() <= e.attributes.items()]

    def one(self, tag: str, **attributes: str) -> Element:
        (element,) = self.all(tag, **attributes)
        return element

    @property
    def data(self) -> dict[str, Any]:
        """What the script reads."""
        values = json.loads(self.one("script", id="data").text)
        assert isinstance(values, dict)
        return values

    def tiles(self) -> list[tuple[str, str | None, bool, str | None, float | None]]:
        """Return id, label, kept, ROI and coverage of each tile, in the order of grid_y, grid_x."""
        data = self.data
        grid = data["tiles"]
        runs = np.array(grid["runs"], np.int64).reshape(-1, 4)
        assert runs[:, 0].sum() == grid["columns"] * grid["rows"]
        rows = []
        for at, (state, roi, coverage) in enumerate(np.repeat(runs[:, 1:], runs[:, 0], axis=0).tolist()):
            grid_y, grid_x = divmod(at, grid["columns"])
            x, y = (
                grid[f"origin_{axis}"] + place * grid["stride"] + grid["extract_px"] // 2
                for axis, place in (("x", grid_x), ("y", grid_y))
            )
            rows.append(
                (
                    f"{data['slide']}-{x}-{y}",
                    data["labels"][state]["name"] if state >= 0 else None,
                    state != REMOVED,
                    data["rois"][roi]["name"] if roi >= 0 else None,
                    coverage / 10_000 if coverage >= 0 else None,
                )
            )
        return rows

    def outline(self, number: int) -> shapely.Geometry:
        """Return the area that a path encloses by the rule of even and odd, base pixels."""
        path = self.one("path", id=f"roi{number}").attributes["d"]
        assert path is not None
        assert re.fullmatch(r"(M-?[\d.]+ -?[\d.]+(L-?[\d.]+ -?[\d.]+)+Z)+", path)
        area = shapely.Polygon()
        for ring in path.split("Z")[:-1]:
            points = np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", ring), np.float64)
            area = area.symmetric_difference(shapely.Polygon(points).buffer(0))
        return area


def in_the_study(
    study: sd.Study, slide: str, grid: str
) -> list[tuple[str, str | None, bool, str | None, float | None]]:
    """Return what the view holds of each tile, its coverage rounded as the page rounds it."""
    rows = study.con.execute(
        "SELECT tile_id, label, kept, roi_name, coverage FROM labels WHERE slide = $slide AND grid = $grid "
        "ORDER BY grid_y, grid_x",
        {"slide": slide, "grid": grid},
    ).fetchall()
    return [(*row[:4], None if row[4] is None else round(row[4] * 10_000) / 10_000) for row in rows]


@pytest.fixture
def small(study: sd.Study, tmp_path: Path) -> sd.Study:
    """A study of a slide with ROIs of two labels, one without, a hole, an artifact, and one that leaves the slide."""
    write_slide(tmp_path / "a.tiff", 3, size=(640, 480))
    write_rois(
        tmp_path / "a.csv",
        {
            "nest": ("tumour", (50, 50, 330, 330)),
            "nest_hole": ("tumour", (150, 150, 250, 250)),
            "bar": ("stroma", (400.5, 33.25, 900, 300)),
            "note": ("", (30, 350, 200, 470)),
            "smear": ("pen", (280, 280, 420, 400)),
        },
    )
    study.add_slides(tmp_path / "a.tiff")
    study.add_rois(tmp_path / "a.csv")
    study.tile(16, tile_um=16)
    study.tile(16, tile_um=16, stride_div=2, origin=(5, 9))
    study.label(artifact_labels=["pen"])
    return study


@pytest.mark.parametrize("grid", ["16px_16um", "16px_16um_stride2_origin5-9"])
@pytest.mark.parametrize("method", ["auto", "inside", "outside", "ignore"])
def test_tiles_of_the_page_are_those_of_the_view(small: sd.Study, tmp_path: Path, grid: str, method: str) -> None:
    small.label(rule="coverage", threshold=0.3, overlap="exclude", method=method, artifact_labels=["pen"])
    read = Page(small.plot_labels("a", tmp_path / "a.html", grid=grid))
    assert read.tiles() == in_the_study(small, "a", grid)
    assert len({row[1:4] for row in read.tiles()}) > 4


@pytest.mark.parametrize("slide", ["CMU-1-Small-Region", "TCGA-CR-7395-01A-01-TS1"])
def test_page_of_a_real_slide_holds_its_tiles_and_rois(real_study: sd.Study, tmp_path: Path, slide: str) -> None:
    real_study.tile(64, tile_um=32)
    real_study.tile(64, tile_um=64, stride_div=2)
    real_study.label(rule="coverage", threshold=0.4)
    for grid in ("64px_32um", "64px_64um_stride2"):
        read = Page(real_study.plot_labels(slide, tmp_path / "a.html", grid=grid, max_px=500))
        assert read.tiles() == in_the_study(real_study, slide, grid)
    rois = real_study.con.execute(
        "SELECT roi_name, label, ST_AsWKB(geom) FROM rois WHERE slide = $slide AND parent IS NULL", {"slide": slide}
    ).fetchall()
    assert sorted(roi["name"] for roi in read.data["rois"]) == sorted(name for name, _, _ in rois)
    for number, roi in enumerate(read.data["rois"]):
        ((label, wkb),) = [(label, wkb) for name, label, wkb in rois if name == roi["name"]]
        stored = shapely.from_wkb(bytes(wkb))
        assert read.outline(number).symmetric_difference(stored).area < 0.01 * stored.length
        assert roi["box"] == pytest.approx(stored.bounds)
        assert roi["label"] == (
            NO_LABEL if label is None else [entry["name"] for entry in read.data["labels"]].index(label)
        )


@pytest.mark.slow
@settings(max_examples=cases(9, 300))
@given(
    rois=st.lists(
        st.tuples(
            st.sampled_from(["", "x", "y", "z"]),
            st.floats(-50, 250),
            st.floats(-50, 150),
            st.floats(8, 300),
            st.floats(8, 300),
        ),
        max_size=6,
    ),
    tile_um=st.integers(3, 60),
    stride_div=st.sampled_from([1, 2, 3]),
)
def test_tiles_and_outlines_of_any_rois_are_those_of_the_study(
    rois: list[tuple[str, float, float, float, float]],
    tile_um: int,
    stride_div: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    write_slide(folder / "a.tiff", size=(256, 160))
    boxes = {f"r{i}": (label, (x, y, x + w, y + h)) for i, (label, x, y, w, h) in enumerate(rois) if x + w > 1 < y + h}
    with sd.open(folder / "s.duckdb") as study:
        study.add_slides(folder / "a.tiff")
        if boxes:
            write_rois(folder / "a.csv", boxes)
            study.add_rois(folder / "a.csv", holes="explicit")
        grid = study.tile(16, tile_um=tile_um, stride_div=stride_div).grid
        study.label(artifact_labels=["z"] if any(label == "z" for label, _ in boxes.values()) else [])
        read = Page(study.plot_labels("a", folder / "a.html"))
        assert read.tiles() == in_the_study(study, "a", grid)
    for number, roi in enumerate(read.data["rois"]):
        assert read.outline(number).symmetric_difference(shapely.box(*boxes[roi["name"]][1])).area < 20


def test_legend_has_a_box_for_the_tiles_and_for_the_rois_of_each_label(small: sd.Study, tmp_path: Path) -> None:
    read = Page(small.plot_labels("a", tmp_path / "a.html", grid="16px_16um"))
    names = [label["name"] for label in read.data["labels"]]
    assert names == ["pen", "stroma", "tumour"]
    assert [label["colour"] for label in read.data["labels"]] == list(label_colours(names).values())
    assert [header.text for header in read.all("th", scope="row")] == [
        "pen (artifact)",
        "stroma",
        "tumour",
        "no label",
        "not kept, paler",
    ]
    keys = {
        kind: [box.attributes["data-key"] for box in read.all("input", data_kind=kind)] for kind in ("tiles", "rois")
    }
    assert keys == {"tiles": ["1", "2", "-1", "-2"], "rois": ["0", "1", "2", "-1"]}
    amounts = [int(element.text) for element in read.all("label") if element.text.strip().isdigit()]
    counts = dict(
        small.sql(
            "SELECT CASE WHEN kept THEN coalesce(label, 'bare') ELSE 'pale' END, count(*) FROM labels "
            "WHERE grid = '16px_16um' GROUP BY ALL"
        ).fetchall()
    )
    assert amounts == [1, counts["stroma"], 1, counts["tumour"], 1, counts["bare"], 1, counts["pale"]]
    assert sum(counts.values()) == 20 * 15
    # Each box tells its label to those who do not see it, and each outline belongs to one.
    assert all(box.attributes.get("aria-label") for box in read.all("input", type="checkbox"))
    assert {group.attributes["data-label"] for group in read.all("g") if "data-label" in group.attributes} == {
        "0", "1", "2", "-1",
    }  # fmt: skip


def test_page_without_tiles_or_without_rois(small: sd.Study, tmp_path: Path) -> None:
    rois = Page(small.plot_labels("a", tmp_path / "rois.html", tiles=False))
    assert rois.data["tiles"] is None
    assert not rois.all("input", type="range")
    assert not rois.all("input", data_kind="tiles")
    assert len(rois.all("input", data_kind="rois")) == 4
    tiles = Page(small.plot_labels("a", tmp_path / "tiles.html", grid="16px_16um", rois=False))
    assert not tiles.all("path", vector_effect="non-scaling-stroke")
    assert not tiles.all("input", data_kind="rois")
    assert len(tiles.all("input", data_kind="tiles")) == 4
    # What a tile is in is told all the same.
    assert tiles.tiles() == in_the_study(small, "a", "16px_16um")


def test_picture_is_the_slide(small: sd.Study, tmp_path: Path) -> None:
    read = Page(small.plot_labels("a", tmp_path / "a.html", grid="16px_16um", max_px=320))
    source = read.one("img").attributes["src"]
    assert source is not None
    kind, _, coded = source.partition(",")
    assert kind == "data:image/jpeg;base64"
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(coded), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    slide, _ = thumbnail(SlideFile.unchecked(tmp_path / "a.tiff"), 320)
    assert picture.shape == slide.shape == (240, 320, 3)
    assert np.abs(picture.astype(int) - slide).mean() < 6


@pytest.mark.attack("HTML and terminals", "a script, an element or an attribute in a name or label on a page")
def test_names_and_labels_are_text_and_nothing_else(study: sd.Study, tmp_path: Path) -> None:
    evil = "</script><b>"
    names = [
        '"><img src=x onerror=alert(1)>',
        "'; alert(2); //",
        "@@data@@",
        "</title></svg><!--",
        "a\u2028b\x1b\u202e",
    ]
    slide = "x&<i>"
    write_slide(tmp_path / f"{slide}.tiff")
    labels = [evil, "<!--<script>", "&amp;", '" onclick="alert(3)', "${alert(4)}"]
    write_rois(
        tmp_path / f"{slide}.csv",
        {
            name: (label, (i * 100, 0, i * 100 + 90, 400))
            for i, (name, label) in enumerate(zip(names, labels, strict=True))
        },
    )
    study.add_slides(tmp_path / f"{slide}.tiff")
    study.add_rois(tmp_path / f"{slide}.csv")
    study.tile(16, tile_um=16)
    study.label()
    read = Page(study.plot_labels(slide, tmp_path / "a.html"))
    assert {element.tag for element in read.elements} <= {
        "html", "head", "meta", "title", "style", "body", "main", "img", "canvas", "svg", "g", "path", "use", "rect",
        "div", "span", "button", "aside", "h1", "h2", "p", "noscript", "table", "caption", "thead", "tbody", "tr", "th",
        "td", "label", "input", "output", "section", "dl", "kbd", "script",
    }  # fmt: skip
    assert len(read.all("img")) == len(read.all("h1")) == 1
    assert len(read.all("script")) == 2
    for element in read.elements:
        assert not [name for name in element.attributes if name.startswith("on") or name == "style"], element
    assert read.one("h1").text == slide
    assert read.all("title")[0].text == f"{slide}: labels of grid 16px_16um"
    names[-1] = r"a\u2028b\x1b\u202e"
    assert sorted(roi["name"] for roi in read.data["rois"]) == sorted(names)
    assert sorted(label["name"] for label in read.data["labels"]) == sorted(labels)
    rows = [header.text for header in read.all("th", scope="row")]
    assert sorted(rows) == sorted([*labels, "not kept, paler"])
    titles = {element.text for element in read.all("title")[1:]}
    assert titles == {f"{name}: {label}" for name, label in zip(names, labels, strict=True)}
    alt = read.one("img").attributes["alt"]
    assert alt is not None
    assert slide in alt
    assert evil in alt
    tiles = in_the_study(study, slide, "16px_16um")
    assert read.tiles() == [(*tile[:3], tile[3] and printable(tile[3]), *tile[4:]) for tile in tiles]


def test_page_reaches_for_nothing_and_runs_its_own_script_alone(small: sd.Study, tmp_path: Path) -> None:
    read = Page(small.plot_labels("a", tmp_path / "a.html", grid="16px_16um"))
    assert "://" not in read.source
    for element in read.elements:
        for name in ("src", "href", "action", "srcset", "poster"):
            link = element.attributes.get(name)
            assert link is None or link.startswith(("data:image/jpeg;base64,", "#roi")), link
    assert not read.all("link")
    assert not re.search(
        r"@import|url\(|fetch\(|XMLHttpRequest|import\(|innerHTML|eval\(", read.source.split("base64,")[-1]
    )
    policy = read.all("meta", http_equiv="Content-Security-Policy")[0].attributes["content"]

    def digest(text: str) -> str:
        return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    script, style = digest(read.all("script")[1].text), digest(read.one("style").text)
    assert policy == (
        f"default-src 'none'; img-src data:; script-src '{script}'; style-src '{style}'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_page_can_be_used_without_sight_and_without_a_mouse(small: sd.Study, tmp_path: Path) -> None:
    read = Page(small.plot_labels("a", tmp_path / "a.html", grid="16px_16um"))
    assert read.one("html").attributes["lang"] == "en"
    assert read.all("title")[0].text == "a: labels of grid 16px_16um"
    counts = dict(small.sql("SELECT label, count(*) FROM labels WHERE grid = '16px_16um' GROUP BY ALL").fetchall())
    assert read.one("img").attributes["alt"] == (
        f"Slide a, 0.32 × 0.24 mm: 4 ROIs; 300 tiles of grid 16px_16um; "
        f"stroma {counts['stroma']}; tumour {counts['tumour']}"
    )
    view = read.one("main").attributes
    assert (view["tabindex"], view["role"], view["aria-describedby"]) == ("0", "application", "keys")
    assert read.one("p", id="said").attributes["aria-live"] == "polite"
    assert all(button.attributes.get("aria-label") or button.text for button in read.all("button"))
    for keys in ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", '"+"', '"-"', '"0"'):
        assert keys in read.all("script")[1].text


def test_script_is_sound(small: sd.Study, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node to read the script with")
    read = Page(small.plot_labels("a", tmp_path / "a.html", grid="16px_16um"))
    script = read.all("script")[1].text
    (tmp_path / "page.js").write_text(script, encoding="utf-8")
    subprocess.run([node, "--check", str(tmp_path / "page.js")], check=True)
    # Every element that the script asks for by name is there.
    ids = {element.attributes["id"] for element in read.elements if "id" in element.attributes}
    assert set(re.findall(r'byId\("(\w+)"\)', script)) <= ids


def test_same_study_gives_the_same_page(small: sd.Study, tmp_path: Path) -> None:
    small.close()
    code = (
        "import sys, slideduck as sd\n"
        f"with sd.open({str(small.path)!r}, read_only=True, threads=int(sys.argv[2])) as study:\n"
        "    study.plot_labels('a', sys.argv[1], grid='16px_16um')\n"
    )
    out = tmp_path / "a.html"
    made = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(out), seed], env=environment, check=True)
        made.append(out.read_bytes())
    assert made[0] == made[1]
    with sd.open(small.path, read_only=True) as study:
        assert study.plot_labels("a", tmp_path / "b.HTM", grid="16px_16um", html=True).read_bytes() == made[0]
        with pytest.raises(StudyError) as refused:
            page(study.handle, "a", tmp_path / "c.png", grid="16px_16um")
    assert str(refused.value) == "c.png is not named as a page; name it c.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.html", "a.tiff", "b.HTM", "study.duckdb"]


def test_page_of_120_000_tiles_is_light(study: sd.Study, tmp_path: Path) -> None:
    side = 346 * 7
    write_slide(tmp_path / "a.tiff", size=(side, side))
    angle = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    rows = ["roi_name,x_base,y_base,label"]
    for i in range(30):
        radius = 190 * (1 + 0.2 * np.sin(3 * angle + i) + 0.1 * np.sin(17 * angle))
        x, y = 260 + 380 * (i % 6) + radius * np.cos(angle), 260 + 470 * (i // 6) + radius * np.sin(angle)
        rows += [f"r{i},{a:.1f},{b:.1f},label {i % 4}" for a, b in zip(x, y, strict=True)]
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    study.add_slides(tmp_path / "a.tiff")
    study.add_rois(tmp_path / "a.csv")
    assert study.tile(7, tile_um=3.5).tiles == 119_716
    study.label()
    read = Page(study.plot_labels("a", tmp_path / "a.html", max_px=256))
    assert len(read.one("script", id="data").text) < 300_000
    # The rest is the outlines, of 60,000 points, and the picture.
    assert len(read.source) < 1_500_000
    assert read.tiles() == in_the_study(study, "a", "7px_3.5um")
