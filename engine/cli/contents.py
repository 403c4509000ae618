"""What ``slideduck --help`` lists, so that it need not import a command to say what it does.

A test compares each line with the beginning of the command's own help.
"""

from __future__ import annotations

__all__ = ["MODULES", "SECTIONS"]

#: The commands by what they are for, each section in the order in which its commands are used, and the first
#: sentence of each command's help. Those of other packages, such as the runner's, are listed where they are registered.
SECTIONS = {
    "Fill a study": {
        "add-slides": "Read the headers of slides: files, folders or globs.",
        "add-rois": "Read ROI files of Slideflow, QuPath, ImageScope, HALO, ASAP, NDP.view and GeoPandas, told apart "
        "by content.",
        "add-masks": "Read label masks, PNG or TIFF, as ROIs with the exact outlines of their pixels.",
        "add-patients": "Read a table of patients: CSV, Excel or Parquet with slide, patient, optional site, and "
        "further columns.",
        "add-predictions": "Load what a RUN predicted of labelled tiles into a STUDY, to look at its errors in SQL.",
        "remove-rois": "Take ROI files out of a study: files, folders or globs; the files themselves stay.",
        "remove-slides": "Remove slides, by name, with their ROIs, tiles, labels, predictions and features; the files "
        "themselves stay.",
        "relocate": "Follow slides and ROI files that were moved from one folder to another, as when a disk is mounted "
        "elsewhere.",
        "import-slideflow": "Make a study of a project of Slideflow: slides, ROIs, annotations, tiles, labels and "
        "split.",
        "info": "Print what a study holds.",
    },
    "Label its tiles": {
        "tile": "Lay a grid of tiles on every slide.",
        "label": "Label the tiles of every grid, in the view `labels`, and print how many got which label.",
        "rename-label": "Rename a label in all of a study, or merge two: its ROIs, its rule, and files added later.",
        "add-labels": "Read labels of tiles from a table: Parquet or CSV with tile_id or places, and labels, numbers "
        "or soft labels.",
        "remove-labels": "Take labels that add-labels added out of a study; the file that they came from stays.",
        "qc": "Measure tiles, so that any --where can filter them by brightness, white, grey, blur, tissue and pen "
        "marks.",
        "split": "Split the patients into train and validation, balanced over labels; no patient is on both sides.",
        "stain": "Find the stains of slides, so that export --stain can give all slides the same.",
    },
    "Export them": {
        "export": "Write labelled tiles into a beton, with everything a reader needs in OUT.json beside it.",
        "merge": "Make of all SHARDS of an export, in any order, the beton that it makes without --shards.",
        "verify": "Check the labels of a study, or a beton: all that can be proved of it.",
        "export-rois": "Write ROIs as files that other programs read, a file for each slide, in level-0 pixels.",
        "export-slideflow": "Write a project that Slideflow opens: sources, annotations, ROIs, the frame of tiles and "
        "the split.",
        "export-tiles": "Write the labels of tiles, or a run's predictions, as GeoJSON that QuPath shows over the "
        "slide.",
    },
    "Train on them": {
        "train": "Train a network on a BETON that `slideduck export` made.",
        "evaluate": "Compute the metrics of a RUN's network on any BETON, and write its predictions.",
        "predict": "Predict every tile of a grid, straight from the slides, into the table predictions of a STUDY.",
        "heatmap": "Draw a SLIDE of a STUDY with the probability of each class or label, or each number, over it.",
        "features": "Compute the penultimate layer of a RUN's network for every tile.",
        "gradcam": "Draw tiles of a STUDY or a BETON with what speaks for each class, label or number (.png, .pdf, "
        ".svg).",
        "export-model": "Write a RUN's network into OUT for other programs: .onnx or .safetensors.",
        "plot": "Draw what a study knows, as a picture or as a page to zoom in.",
    },
    "Ask a study": {
        "sql": "Run one SQL query on a study; `-` reads it from standard input.",
        "counts": "Count tiles, and add up their area, by label, slide, patient, site, split, fold, grid or ROI.",
        "conflicts": "List the tiles that lie in several ROIs of different labels, and the ROIs, the winner first.",
        "rois": "List the ROIs, with the area of each and the tiles that it holds and wins.",
        "coverage": "Count the tiles in ROIs by label and by the part of them that the winning ROI covers.",
        "neighbours": "List the tiles around a tile, with their labels; dx goes right and dy down.",
        "at": "List the ROIs, of every set, that a point lies in, and which of them gives its label.",
        "area": "Print the area of each label, from the outlines themselves, whatever the grid.",
        "agreement": "Print how far two sets of ROIs, such as two readers', give tiles the same labels.",
        "disagreements": "List the tiles to which two sets of ROIs give different labels; having none counts as a "
        "label.",
    },
    "See it run": {
        "demo": "Make a small cohort in DIRECTORY and run every step on it: slides to heatmap.",
    },
}

#: The module of each command of the engine; a command has its name there, with ``_`` for ``-``.
MODULES = {
    **dict.fromkeys(("add-slides", "relocate"), "slideduck.cli.slides"),
    **dict.fromkeys(("add-rois", "add-patients", "remove-rois", "remove-slides", "info", "tile"), "slideduck.cli.fill"),
    "add-masks": "slideduck.cli.masks",
    **dict.fromkeys(("label", "add-labels", "remove-labels", "rename-label", "split"), "slideduck.cli.label"),
    "qc": "slideduck.cli.measure",
    "stain": "slideduck.cli.stain",
    **dict.fromkeys(("export", "merge", "verify"), "slideduck.cli.betons"),
    **dict.fromkeys(
        ("export-rois", "export-slideflow", "export-tiles", "import-slideflow"), "slideduck.cli.interop"
    ),
    "add-predictions": "slideduck.cli.predictions",
    "plot": "slideduck.cli.plot",
    **dict.fromkeys(
        (
            "sql", "counts", "conflicts", "rois", "coverage", "neighbours", "at", "area", "agreement", "disagreements",
        ),
        "slideduck.cli.query",
    ),
}  # fmt: skip
