"""Every command that writes, with what it is given: each begins where another one ended."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

__all__ = ["JOBS", "NOT_STRUCK", "Job", "commands_of", "listed_commands", "make_inputs", "make_network"]


@dataclass(frozen=True)
class Job:
    """A command of the campaign.

    Attributes
    ----------
    name : str
        What the table calls it.
    words : str
        What follows ``slideduck``; ``{inputs}`` is the folder of slides and ROI files, which no command changes.
    after : str or None
        The job whose result it begins with; None is an empty folder.
    runner : bool
        Whether it needs torch.
    remedy : str
        What its message says to add where it had already put some of its files in place.
    """

    name: str
    words: str
    after: str | None = "stain"
    runner: bool = False
    remedy: str = ""

    @property
    def command(self) -> str:
        """The command's name, of those of ``plot`` both words."""
        first, second, *_ = self.words.split()
        return f"{first} {second}" if first == "plot" else first

    def typed(self, inputs: Path, *, remedy: bool = False) -> list[str]:
        """Return the words as they are typed, perhaps with the remedy; `+` stands for a space within one."""
        words = [*self.words.split(), *(self.remedy.split() if remedy else ())]
        return [word.format(inputs=inputs).replace("+", " ") for word in words]


#: Commands that write nothing but what they print, or that are made of the others: each with the reason.
NOT_STRUCK = {
    "info": "it prints",
    "verify": "it prints",
    "demo": "it runs commands that are struck by themselves",
}

_TRAIN = "--epochs 2 --batch-size 8 --checkpoint-steps 1 --nproc 1 --track none --model hf:{inputs}/network"

JOBS = (
    Job("add-slides", "add-slides study.duckdb {inputs}/slides", None),
    Job("add-slides (more)", "add-slides study.duckdb {inputs}/more", "add-slides"),
    Job("add-rois", "add-rois study.duckdb {inputs}/rois", "add-slides"),
    Job("add-masks", "add-masks study.duckdb {inputs}/masks --labels 1=light,2=dark --set masks", "add-rois"),
    Job("add-patients", "add-patients study.duckdb {inputs}/patients.csv", "add-masks"),
    Job("tile", "tile study.duckdb --tile-px 32 --tile-um 32", "add-patients"),
    Job("label", "label study.duckdb", "tile"),
    Job("add-labels", "add-labels study.duckdb {inputs}/labels.csv", "label"),
    Job("label --from", "label study.duckdb --from consensus --from rois", "add-labels"),
    Job("add-labels --replace", "add-labels study.duckdb {inputs}/soft.csv --replace", "label --from"),
    Job("remove-labels", "remove-labels study.duckdb consensus", "add-labels"),
    Job("split", "split study.duckdb --val-fraction 0.5", "label"),
    Job("import-slideflow", "import-slideflow {inputs}/project study.duckdb --tile-px 32 --tile-um 32", None),
    Job("import-slideflow (more)", "import-slideflow {inputs}/project study.duckdb --tile-px 32 --tile-um 32", "split"),
    Job("export-slideflow", "export-slideflow study.duckdb project", "split", remedy="--overwrite"),
    Job("qc", "qc study.duckdb", "split"),
    Job("stain", "stain study.duckdb", "qc"),
    Job("rename-label", "rename-label study.duckdb light pale"),
    Job("remove-rois", "remove-rois study.duckdb {inputs}/rois/s0.csv"),
    Job("remove-slides", "remove-slides study.duckdb s0"),
    Job("relocate", "relocate study.duckdb {inputs}/slides {inputs}/moved"),
    Job("sql --write", "sql study.duckdb UPDATE+patients+SET+site='C' --write"),
    Job("sql --parquet", "sql study.duckdb FROM+labels --parquet labels.parquet"),
    Job("counts --parquet", "counts study.duckdb --by label --parquet counts.parquet"),
    Job("conflicts --parquet", "conflicts study.duckdb --parquet conflicts.parquet"),
    Job("rois --parquet", "rois study.duckdb --parquet rois.parquet"),
    Job("coverage --parquet", "coverage study.duckdb --parquet coverage.parquet"),
    Job("neighbours --parquet", "neighbours study.duckdb s0-96-96 --parquet around.parquet"),
    Job("at --parquet", "at study.duckdb s0 100 100 --parquet at.parquet"),
    Job("area --parquet", "area study.duckdb --parquet area.parquet"),
    Job("agreement --parquet", "agreement study.duckdb default masks --parquet agreement.parquet"),
    Job("disagreements --parquet", "disagreements study.duckdb default masks --parquet between.parquet"),
    Job("export", "export study.duckdb tiles.beton"),
    Job("export (encoded)", "export study.duckdb encoded.beton --jpeg reencode --stain macenko"),
    Job("export --shard", "export study.duckdb parts.beton --shards 2 --shard 0"),
    Job("export --shards", "export study.duckdb parts.beton --shards 2"),
    Job("merge", "merge parts.beton parts-00000-of-00002.beton parts-00001-of-00002.beton", "export --shards"),
    Job("export-rois", "export-rois study.duckdb rois --format geojson", remedy="--overwrite"),
    Job("export-rois (early)", "export-rois study.duckdb rois --format csv", "add-rois", remedy="--overwrite"),
    Job("export-rois (parquet)", "export-rois study.duckdb rois --format geoparquet", remedy="--overwrite"),
    Job("export-tiles", "export-tiles study.duckdb tiles", remedy="--overwrite"),
    Job("plot labels", "plot labels study.duckdb s0 labels.png --dpi 60"),
    Job("plot labels (page)", "plot labels study.duckdb s0 labels.html"),
    Job("plot stain", "plot stain study.duckdb s0 s1 stain.png --dpi 60"),
    Job("train", f"train tiles.beton --run run {_TRAIN}", "export", runner=True),
    Job("evaluate", "evaluate run tiles.beton --split val", "train", runner=True),
    Job("evaluate --study", "evaluate run tiles.beton --split val --study study.duckdb", "train", runner=True),
    Job("add-predictions", "add-predictions study.duckdb run", "train", runner=True),
    Job("predict", "predict run study.duckdb", "train", runner=True),
    Job("predict (beton)", "predict run tiles.beton --out predicted.parquet", "train", runner=True),
    Job("features", "features run study.duckdb", "train", runner=True),
    Job("features (parquet)", "features run study.duckdb features", "train", runner=True),
    Job("features (h5)", "features run study.duckdb features --format h5", "train", runner=True),
    Job("heatmap", "heatmap run study.duckdb s0 heatmap.png", "predict", runner=True),
    Job("heatmap (geojson)", "heatmap run study.duckdb s0 heatmap.geojson", "predict", runner=True),
    Job("gradcam", "gradcam run study.duckdb s0-96-96 gradcam.png", "train", runner=True),
    Job("export-model", "export-model run model.safetensors", "train", runner=True),
    Job("export-model (onnx)", "export-model run model.onnx", "train", runner=True),
    Job("plot curves", "plot curves run curves.png --dpi 60", "train", runner=True),
    Job("plot roc", "plot roc run roc.png --dpi 60", "train", runner=True),
    Job("plot pr", "plot pr run pr.png --dpi 60", "train", runner=True),
    Job("plot confusion", "plot confusion run confusion.png --dpi 60", "train", runner=True),
    Job("plot reliability", "plot reliability run reliability.png --dpi 60", "train", runner=True),
    Job("plot worst", "plot worst run tiles.beton worst.png --tiles 4 --dpi 60", "train", runner=True),
)


def listed_commands() -> set[str]:
    """Return every command that there is: those that the help lists, those that packages register, and plots."""
    from slideduck.cli.contents import SECTIONS
    from slideduck.cli.plot import plot

    commands = {name for section in SECTIONS.values() for name in section}
    commands |= {point.name for point in entry_points(group="slideduck.commands")}
    plots = {*plot.commands, *(point.name for point in entry_points(group="slideduck.plots"))}
    return (commands - {"plot"}) | {f"plot {name}" for name in plots}


def commands_of(jobs: Sequence[Job]) -> set[str]:
    """Return the commands of jobs."""
    return {job.command for job in jobs}


def make_inputs(folder: Path) -> None:
    """Write slides, ROI files, masks and a table of patients."""
    import cv2
    import numpy as np

    from tests.slides import synthetic_image, write_slide

    for name in ("slides", "more", "rois", "masks", "moved"):
        (folder / name).mkdir(parents=True)
    for number, name in enumerate(("s0", "s1", "s2")):
        image = synthetic_image(number, (320, 256))
        image[:, 160:] //= 2
        write_slide(folder / ("slides" if number < 2 else "more") / f"{name}.tif", image)
    for name in ("s0", "s1"):
        shutil.copy2(folder / "slides" / f"{name}.tif", folder / "moved")
        lines = ["roi_name,x_base,y_base,label"]
        for roi, label, left, right in (("a", "light", 0, 160), ("b", "dark", 160, 320)):
            lines += [f"{roi},{x},{y},{label}" for x, y in ((left, 0), (right, 0), (right, 256), (left, 256))]
        (folder / "rois" / f"{name}.csv").write_text("\n".join(lines) + "\n")
        mask = np.full((64, 80), 1, np.uint8)
        mask[:, 37:] = 2
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask)
    (folder / "patients.csv").write_text("slide,patient,site\ns0,P0,A\ns1,P1,B\n")
    project = folder / "project"
    project.mkdir()
    (project / "settings.json").write_text('{"name": "p", "sources": ["a"]}')
    (project / "datasets.json").write_text('{"a": {"slides": "../slides", "roi": "../rois"}}')
    (project / "annotations.csv").write_text("patient,slide\nP0,s0\nP1,s1\n")
    (project / "splits.json").write_text(
        '[{"strategy": "fixed", "tfrecords": {"training": ["s0"], "validation": ["s1"]}}]'
    )
    places = [(slide, x, y) for slide in ("s0", "s1") for y in range(16, 240, 32) for x in range(16, 304, 32)]
    labels = [f"{slide}-{x}-{y},{'pale' if x < 100 else 'none' if x < 200 else 'dark'}" for slide, x, y in places]
    (folder / "labels.csv").write_text("\n".join(["tile_id,label", *labels]) + "\n")
    soft = [f"{slide},{x},{y},{x / 400},{1 - x / 400}" for slide, x, y in places]
    (folder / "soft.csv").write_text("\n".join(["slide,loc_x,loc_y,pale,dark", *soft]) + "\n")


def make_network(folder: Path) -> None:
    """Write a network that is small enough to be copied with each run."""
    import torch
    from transformers import ResNetConfig, ResNetModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder / "network")
