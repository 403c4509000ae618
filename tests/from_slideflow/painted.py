"""The slides and regions of the cohort that Slideflow made a project of; see make.py beside this.

The slides are painted anew wherever they are needed; Slideflow's own files of them are kept beside this.
"""

from __future__ import annotations

from pathlib import Path

from tests.slides import write_slide

__all__ = ["ANNOTATIONS", "MAGNIFICATION", "REGIONS", "SLIDES", "TILE_PX", "TILE_UM", "paint_slides", "write_regions"]

TILE_PX, TILE_UM = 64, 32
#: Another size of tiles.
MAGNIFICATION = "10x"

#: Source, file name, size and microns per pixel of each slide. The last one is in no row of the annotations.
SLIDES = (
    ("north", "n1.svs", (640, 480), 0.5),
    ("north", "n2.svs", (512, 512), 0.5),
    ("north", "n3.svs", (640, 400), 0.5),
    ("south", "s1.svs", (1280, 960), 0.25),
    ("south", "s 2.svs", (600, 600), 0.5),
    ("south", "s9.svs", (256, 256), 0.5),
)

#: Rows of the annotations: patient, slide, and what Slideflow knows nothing of.
ANNOTATIONS = """patient,slide,site,grade,age
P1,n1,north,high,61
P1,n2,north,high,61
P2,n3,north,low,70
P3,s1,south,low,55.5
P4,s 2,south,high,
P5,gone,south,low,48
"""

#: Regions by source and slide: name, label and outline, base pixels. No two overlap, but for the hole in ``tumour 1``.
REGIONS: dict[tuple[str, str], tuple[tuple[str, str, tuple[tuple[float, float], ...]], ...]] = {
    ("north", "n1"): (
        ("tumour 1", "tumour", ((10, 12), (300, 20), (330, 250), (180, 330), (20, 300))),
        ("hole", "tumour", ((100, 100), (200, 110), (190, 210), (110, 200))),
        ("stroma, dense", "stroma", ((350.5, 40.25), (620, 60), (600, 430), (380, 400))),
    ),
    ("north", "n2"): (
        ("a", "stroma", ((0, 0), (250, 0), (250, 512), (0, 512))),
        ("b", "", ((260, 20), (500, 20), (500, 200), (260, 200))),
    ),
    ("south", "s1"): (
        ("ring", "tumour", ((100, 100), (700, 160), (640, 800), (360, 500), (120, 820))),
        ("far", "Stroma", ((760, 100), (1200, 100), (1250, 900), (800, 880))),
    ),
    ("south", "s9"): (("alone", "tumour", ((10, 10), (200, 10), (200, 200))),),
    ("south", "lost"): (("nowhere", "tumour", ((10, 10), (200, 10), (200, 200))),),
}


def paint_slides(folder: Path) -> None:
    """Write the slides of each source into ``folder/SOURCE``."""
    for seed, (source, name, size, mpp) in enumerate(SLIDES):
        (folder / source).mkdir(parents=True, exist_ok=True)
        write_slide(folder / source / name, seed, size=size, mpp=mpp, vendor="aperio")


def write_regions(folder: Path) -> None:
    """Write the regions of each source into ``folder/SOURCE``, a CSV for each slide."""
    for (source, slide), regions in REGIONS.items():
        (folder / source).mkdir(parents=True, exist_ok=True)
        lines = ["roi_name,label,x_base,y_base"]
        for name, label, points in regions:
            cell = f'"{name}"' if "," in name else name
            lines += [f"{cell},{label},{x},{y}" for x, y in points]
        (folder / source / f"{slide}.csv").write_text("\n".join(lines) + "\n")
