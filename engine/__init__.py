"""slideduck: tile labels of whole-slide images in DuckDB, betons, and a training runner.

>>> import slideduck as sd
>>> study = sd.open("study.duckdb")  # doctest: +SKIP

What is public is imported when it is first used; `__init__.pyi` beside this says the same to type checkers.
"""

from __future__ import annotations

from slideduck.lazy import lazy_names

__version__ = "0.1.0"

if __name__ != "slideduck":  # the folder's name is not the package's name
    raise ImportError("import slideduck, not engine (after: pip install -e .)")

#: The module of each public name, and its name there where that is another.
_HOMES = {
    "Study": "slideduck.study.study",
    "open": "slideduck.study.study:open_study",
    "import_slideflow": "slideduck.study.slideflow",
    # What a study's methods return.
    "EvaluationAdded": "slideduck.catalog.evaluations",
    "ExportReport": "slideduck.betons.export",
    "FilesMoved": "slideduck.catalog.moves",
    "GridReport": "slideduck.catalog.grids",
    "LabelRenamed": "slideduck.labels.rename",
    "LabelReport": "slideduck.labels.label",
    "LabelsAdded": "slideduck.labels.tables",
    "LabelsRemoved": "slideduck.labels.tables",
    "MasksReport": "slideduck.rois.masks",
    "NativeGrid": "slideduck.catalog.native",
    "PatientsReport": "slideduck.catalog.patients_table",
    "QcReport": "slideduck.measure.qc",
    "RoiExportReport": "slideduck.interop.rois",
    "RoisRemoved": "slideduck.rois.table",
    "RoisReport": "slideduck.rois.table",
    "SlideflowExport": "slideduck.interop.slideflow_export",
    "SlideflowImport": "slideduck.interop.slideflow_import",
    "SlidesRemoved": "slideduck.catalog.slides",
    "SlidesReport": "slideduck.catalog.slidefiles",
    "SplitReport": "slideduck.labels.split_report",
    "StainReport": "slideduck.measure.stain_fit",
    "TileExportReport": "slideduck.interop.tiles",
    "VerifyReport": "slideduck.labels.verify",
    # Betons, which need no study.
    "BetonReport": "slideduck.betons.check",
    "MergeReport": "slideduck.betons.merge",
    "Sidecar": "slideduck.betons.sidecar",
    "merge_betons": "slideduck.betons.merge",
    "read_sidecar": "slideduck.betons.sidecar",
    "verify_beton": "slideduck.betons.check",
    # What inputs may hold.
    "limits": "slideduck.limit",
    # Everything that is raised for a user's mistake.
    "BetonError": "slideduck.errors",
    "ConfigError": "slideduck.errors",
    "DiskFullError": "slideduck.errors",
    "InputError": "slideduck.errors",
    "MissingPackageError": "slideduck.errors",
    "QueryError": "slideduck.errors",
    "ResolutionError": "slideduck.errors",
    "RunError": "slideduck.errors",
    "SlideError": "slideduck.errors",
    "SlideduckError": "slideduck.errors",
    "SplitError": "slideduck.errors",
    "StudyError": "slideduck.errors",
}

__all__ = ["__version__", *_HOMES]
# What the runner adds is registered, as its commands are: `loader`, `TileDataset`.
__getattr__, __dir__ = lazy_names(__name__, _HOMES, group="slideduck.names")
