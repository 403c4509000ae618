from slideduck.betons.check import BetonReport, verify_beton
from slideduck.betons.export import ExportReport
from slideduck.betons.merge import MergeReport, merge_betons
from slideduck.betons.sidecar import Sidecar, read_sidecar
from slideduck.catalog.evaluations import EvaluationAdded
from slideduck.catalog.grids import GridReport
from slideduck.catalog.moves import FilesMoved
from slideduck.catalog.native import NativeGrid
from slideduck.catalog.patients_table import PatientsReport
from slideduck.catalog.slidefiles import SlidesReport
from slideduck.catalog.slides import SlidesRemoved
from slideduck.errors import (
    BetonError,
    ConfigError,
    DiskFullError,
    InputError,
    MissingPackageError,
    QueryError,
    ResolutionError,
    RunError,
    SlideduckError,
    SlideError,
    SplitError,
    StudyError,
)
from slideduck.interop.rois import RoiExportReport
from slideduck.interop.slideflow_export import SlideflowExport
from slideduck.interop.slideflow_import import SlideflowImport
from slideduck.interop.tiles import TileExportReport
from slideduck.labels.label import LabelReport
from slideduck.labels.rename import LabelRenamed
from slideduck.labels.split_report import SplitReport
from slideduck.labels.tables import LabelsAdded, LabelsRemoved
from slideduck.labels.verify import VerifyReport
from slideduck.limit import limits
from slideduck.measure.qc import QcReport
from slideduck.measure.stain_fit import StainReport
from slideduck.rois.masks import MasksReport
from slideduck.rois.table import RoisRemoved, RoisReport

# Registered by the runner, and so not in `__all__`.
from slideduck.runner.tiles.dataset import TileDataset as TileDataset
from slideduck.runner.tiles.own_loop import loader as loader
from slideduck.study.slideflow import import_slideflow
from slideduck.study.study import Study
from slideduck.study.study import open_study as open

__version__: str

__all__ = [
    "BetonError",
    "BetonReport",
    "ConfigError",
    "DiskFullError",
    "EvaluationAdded",
    "ExportReport",
    "FilesMoved",
    "GridReport",
    "InputError",
    "LabelRenamed",
    "LabelReport",
    "LabelsAdded",
    "LabelsRemoved",
    "MasksReport",
    "MergeReport",
    "MissingPackageError",
    "NativeGrid",
    "PatientsReport",
    "QcReport",
    "QueryError",
    "ResolutionError",
    "RoiExportReport",
    "RoisRemoved",
    "RoisReport",
    "RunError",
    "Sidecar",
    "SlideError",
    "SlideduckError",
    "SlideflowExport",
    "SlideflowImport",
    "SlidesRemoved",
    "SlidesReport",
    "SplitError",
    "SplitReport",
    "StainReport",
    "Study",
    "StudyError",
    "TileExportReport",
    "VerifyReport",
    "__version__",
    "import_slideflow",
    "limits",
    "merge_betons",
    "open",
    "read_sidecar",
    "verify_beton",
]
