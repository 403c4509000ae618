"""Small files of every kind that a parser reads, from which mutations start."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
import tifffile
from PIL import Image

__all__ = ["seeds"]

SQUARE = [(10.0, 10.0), (300.0, 10.0), (300.0, 200.0), (10.0, 200.0)]
HOLE = [(50.0, 50.0), (90.0, 50.0), (90.5, 90.0)]


def _geojson() -> bytes:
    rings = [[*ring, ring[0]] for ring in (SQUARE, HOLE)]
    shapes = [
        {"type": "Polygon", "coordinates": rings},
        {"type": "MultiPolygon", "coordinates": [[rings[0]], [rings[1]]]},
        {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": rings}]},
        {"type": "LineString", "coordinates": SQUARE},
    ]
    features = [
        {
            "type": "Feature",
            "geometry": shape,
            "properties": {"objectType": "annotation", "name": f"n{i}", "classification": {"name": "Tumor"}},
        }
        for i, shape in enumerate(shapes)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=1).encode()


def _asap() -> bytes:
    points = "\n".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(SQUARE))
    return (
        '<?xml version="1.0"?><ASAP_Annotations><Annotations>\n<Annotation Name="a" Type="Polygon" PartOfGroup="t">'
        f"<Coordinates>{points}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    ).encode()


def _halo() -> bytes:
    points = "\n".join(f'<V X="{x}" Y="{y}"/>' for x, y in SQUARE)
    corners = "".join(f'<V X="{x}" Y="{y}"/>' for x, y in SQUARE[::2])
    return (
        '<Annotations><Annotation LineColor="65535" Name="Tumor" Visible="True"><Regions>\n'
        f'<Region Type="Polygon" HasEndcaps="0" NegativeROA="0"><Vertices>{points}</Vertices><Comments/></Region>'
        f'<Region Type="Rectangle" NegativeROA="0"><Vertices>{corners}</Vertices></Region>'
        "</Regions></Annotation></Annotations>"
    ).encode()


def _ndpa() -> bytes:
    points = "".join(f"<point><x>{x * 100}</x><y>{y * 100}</y></point>" for x, y in SQUARE)
    return (
        '<?xml version="1.0" encoding="utf-8"?><annotations>\n<ndpviewstate id="1"><title>a</title>'
        '<coordformat>nanometers</coordformat>\n<annotation type="freehand" displayname="AnnotateFreehand">'
        f"<closed>1</closed><pointlist>{points}</pointlist></annotation></ndpviewstate>"
        '<ndpviewstate id="2"><title>b</title><coordformat>nanometers</coordformat><annotation type="circle">'
        "<x>100</x><y>200</y><radius>5000</radius></annotation></ndpviewstate></annotations>"
    ).encode()


def _geoparquet(*, outline: bool) -> bytes:
    hole = shapely.Polygon(HOLE)
    drawn = shapely.Polygon(SQUARE)
    columns = {
        "slide": ["s", "s"],
        "roi_name": ["a", "h"],
        "label": ["t", "t"],
        "parent": pa.array([None, "a" if outline else None], pa.string()),
        "geometry": pa.array(shapely.to_wkb([drawn.difference(hole), hole]).tolist(), pa.binary()),
    }
    if outline:
        columns["outline"] = pa.array([shapely.to_wkb(drawn), None], pa.binary())
    column: dict[str, object] = {"encoding": "WKB", "geometry_types": [], "crs": None}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    file = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata({"geo": json.dumps(geo)}), file, compression="none")
    return file.getvalue()


def _masks() -> list[bytes]:
    pixels = np.zeros((60, 64), np.uint8)
    pixels[5:30, 10:40] = 1
    files = []
    for form, options in (("PNG", {}), ("TIFF", {"compression": "tiff_lzw"})):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, form, **options)
        files.append(file.getvalue())
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, tile=(16, 16), compression="deflate")
    return [*files, file.getvalue()]


PATIENTS = "slide,patient,site,age\ns,p1,A,50\nt,p2,B,6.5\nu,007,NA,\n"


TILE_LABELS = "tile_id,label\ns-128-128,Tumor\ns-384-128,\nt-128-128,NA\nu-128-384,Stroma\n"


def _soft_labels() -> list[bytes]:
    """Return Parquet of soft labels by place, and of labels by id with a dictionary."""
    texts = pa.array(["s-128-128", "t-128-128"]).dictionary_encode()
    places = {"slide": ["s", "t"], "grid_x": [0, 1], "grid_y": [0, 2], "a": [0.25, 1.0], "b": [0.75, 0.0]}
    files = []
    for table in (pa.table(places), pa.table({"tile_id": texts, "label": texts})):
        file = io.BytesIO()
        pq.write_table(table, file)
        files.append(file.getvalue())
    return files


def _workbook() -> bytes:
    book = openpyxl.Workbook()
    for line in PATIENTS.splitlines():
        book.active.append(line.split(","))
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _patients_parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"slide": ["s", "t"], "patient": ["p", None], "age": [1, 2], "x": [1.5, None]}), file)
    return file.getvalue()


def _zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.geojson", data)
    return file.getvalue()


def seeds(shared: Path) -> Mapping[str, tuple[str, list[bytes]]]:
    """Return for each parser the name of its files, and some files that it reads.

    Parameters
    ----------
    shared : Path
        Folder of the real ROI files.
    """
    csv = b"roi_name,x_base,y_base,label\n" + b"".join(
        f"{name},{x},{y},Tumor\n".encode() for name, ring in (("a", SQUARE), ("h", HOLE)) for x, y in ring
    )
    real = {suffix: sorted(shared.glob(f"*{suffix}")) for suffix in (".csv", ".geojson", ".xml")}

    def files(suffix: str, *own: bytes) -> list[bytes]:
        return [*own, *(path.read_bytes() for path in real[suffix] if path.stat().st_size < 1 << 17)]

    return {
        "Slideflow CSV": ("s.csv", files(".csv", csv, csv.replace(b",", b";"))),
        "GeoJSON": ("s.geojson", files(".geojson", _geojson())),
        "ImageScope XML": ("s.xml", files(".xml")),
        "HALO": ("s.annotations", [_halo()]),
        "ASAP XML": ("s.xml", [_asap()]),
        "NDPA": ("s.ndpi.ndpa", [_ndpa()]),
        "GeoParquet": ("s.parquet", [_geoparquet(outline=True), _geoparquet(outline=False)]),
        "packed": ("s.zip", [gzip.compress(_geojson()), _zipped(_geojson())]),
        "label masks": ("s.png", _masks()),
        "table of labels": ("labels.csv", [b"from,to\nTumor,tumour\nStroma,\n"]),
        "patients CSV": ("p.csv", [PATIENTS.encode(), PATIENTS.replace(",", "\t").encode("utf-16")]),
        "patients Excel": ("p.xlsx", [_workbook()]),
        "patients Parquet": ("p.parquet", [_patients_parquet()]),
        "tile labels CSV": ("l.csv", [TILE_LABELS.encode(), TILE_LABELS.replace(",", ";").encode("utf-16")]),
        "tile labels Parquet": ("l.parquet", _soft_labels()),
        "table of MPP": ("mpp.csv", [b"slide,mpp\ns,0.25\nt,0.5\n"]),
    }
