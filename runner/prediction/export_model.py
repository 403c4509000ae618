"""A run's network for other programs: ONNX, which takes tiles and gives probabilities, and safetensors."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from slideduck.errors import BetonError, ConfigError, RunError
from slideduck.runner.networks.forward import evaluating, logits_of
from slideduck.runner.networks.given import Network
from slideduck.runner.ranks import dist
from slideduck.runner.runs import checkpoint as checkpoints
from slideduck.runner.runs.checkpoint import write_json, write_whole
from slideduck.runner.runs.trained import TrainedModel, load_run
from slideduck.runner.settings.modelfiles import require_model_file
from slideduck.runner.tasks.kinds import make_task
from slideduck.runner.tiles.open import open_beton
from slideduck.show import Shown

__all__ = ["LAYOUTS", "OPSET", "ModelReport", "export_model"]

#: Order of the axes of the tiles that an ONNX model takes.
LAYOUTS = ("nhwc", "nchw")

#: Version of ONNX's operators that models are written in.
OPSET = 18

#: Largest difference of a probability between onnxruntime and torch that is put up with.
_TOLERANCE = 1e-3
_CHECKED_TILES = 16
#: Protocol buffers, which ONNX files are, hold no more.
_LARGEST_ONNX = 2**31 - 1


@dataclass(frozen=True)
class ModelReport(Shown):
    """The model that was exported.

    Attributes
    ----------
    path : str
        The file.
    format : str
        ``"onnx"`` or ``"safetensors"``.
    bytes : int
        Its size.
    epoch : int
        Epoch of the weights, from 1.
    classes : tuple of str
        In the order of the probabilities.
    layout : str or None
        Order of the axes of the tiles, for ONNX.
    opset : int or None
        Version of ONNX's operators.
    random_tiles, real_tiles : int
        Tiles that the file was checked on: of noise, and of the run's beton, if that is still where it was.
    largest_difference : float
        Between the file's probabilities and the network's; of weights, in safetensors.
    """

    path: str
    format: str
    bytes: int
    epoch: int
    classes: tuple[str, ...]
    layout: str | None
    opset: int | None
    random_tiles: int
    real_tiles: int
    largest_difference: float


def export_model(
    run: Path | str,
    out: Path | str,
    *,
    checkpoint: str = "best",
    trust: str | Sequence[str] = (),
    network: Network | None = None,
    layout: str = "nhwc",
) -> ModelReport:
    """Write a run's network in a form that other programs read, checked before it appears.

    An ONNX model takes uint8 RGB tiles in batches of any size, standardises them itself and gives
    probabilities, or numbers where the network estimates these. Safetensors holds the weights under the
    network's own names; ``config.json`` and ``preprocessor_config.json`` beside it tell what they are and
    what the network takes, for networks of transformers in the form that ``from_pretrained`` reads.

    Parameters
    ----------
    run : path
        The run's folder.
    out : path
        A file that ends in ``.onnx`` or ``.safetensors``.
    checkpoint : str
        ``"best"`` or ``"last"``.
    trust : str or sequence of str
        The run's model, where that is code, ``module:function``; see `slideduck.runner.runs.trained.load_run`.
    network : callable or nn.Module, optional
        The run's network, where it was given as an object; see `slideduck.runner.runs.trained.load_run`.
    layout : str
        Of the tiles that an ONNX model takes: ``"nhwc"`` (batch, height, width, channel) or ``"nchw"``.

    Raises
    ------
    ConfigError
        If `out` has another suffix, or a package is missing, with what to install.
    RunError
        If there is no such run, the network cannot be exported, or the file does not give what it gives.
    """
    out = Path(out).absolute()
    if layout not in LAYOUTS:
        raise ConfigError(f"layout is {layout!r}; it must be one of {', '.join(LAYOUTS)}")
    require_model_file(out)
    trained = load_run(run, checkpoint, trust=trust, network=network)
    checkpoints.make_folder(out.parent)
    return _export_onnx(trained, out, layout) if out.suffix == ".onnx" else _export_safetensors(trained, out)


class _FromTiles(nn.Module):
    """A network from uint8 tiles to probabilities or numbers."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, trained: TrainedModel, layout: str) -> None:
        super().__init__()
        self.network, self.layout = trained.network.float().cpu().eval(), layout
        self.task = make_task(trained.config, trained.classes, torch.device("cpu"), state=trained.task.state())
        self.register_buffer("mean", trained.standard.mean.cpu())
        self.register_buffer("std", trained.standard.std.cpu())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the probabilities, or numbers, of uint8 tiles."""
        images_BCHW = images.permute(0, 3, 1, 2) if self.layout == "nhwc" else images
        outputs = logits_of(self.network((images_BCHW.to(torch.float32) - self.mean) / self.std))
        return self.task.given(outputs)

    @property
    def output(self) -> str:
        """What comes out."""
        return self.task.gives


def _export_onnx(trained: TrainedModel, out: Path, layout: str) -> ModelReport:
    """Write an ONNX model."""
    tile_px = trained.beton["image"]["tile_px"]
    model = _FromTiles(trained, layout)
    random = np.random.default_rng(0).integers(0, 256, (_CHECKED_TILES, tile_px, tile_px, 3), dtype=np.uint8)
    real = _real_tiles(trained)
    content = _onnx_bytes(model, _in_layout(random[:2], layout), trained)
    if len(content) > _LARGEST_ONNX:
        raise RunError(f"{out}: the model takes {len(content) / 1e9:.1f} GB and ONNX holds 2; export .safetensors")
    largest = _difference(content, model, [_in_layout(tiles, layout) for tiles in (random, real) if len(tiles)])
    if not largest <= _TOLERANCE:
        raise RunError(
            f"{out}: not written: onnxruntime gives {model.output} that differ from the network's by {largest:.2g}; "
            "does it do something that depends on the batch, or is random? Export .safetensors"
        )
    write_whole(out, lambda file: file.write(content))
    return ModelReport(
        str(out), "onnx", len(content), trained.epoch, trained.classes, layout, OPSET, len(random), len(real), largest
    )


def _onnx_bytes(model: _FromTiles, images: torch.Tensor, trained: TrainedModel) -> bytes:
    """Return the model as ONNX, with the facts that its users need as metadata."""
    import onnx

    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                (images,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=[model.output],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise RunError(
            f"model {trained.config.model!r} cannot be exported to ONNX ({type(error).__name__}: {first}); "
            "export .safetensors"
        ) from error
    facts = {**_facts(trained), "input": f"uint8 RGB tiles, {model.layout.upper()}", "output": model.output}
    onnx.helper.set_model_props(
        proto, {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    )
    proto.producer_name, proto.producer_version = "slideduck", version("slideduck")
    proto.doc_string = (
        f"{model.output.capitalize()} of {', '.join(trained.classes)}, of tiles of {facts['tile_px']} px."
    )
    for node in proto.graph.node:
        # Where in whose files each step came from is of no use elsewhere, and differs between machines.
        del node.metadata_props[:]
        node.doc_string = ""
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which misses torchvision, though nothing here needs it."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _difference(content: bytes, model: _FromTiles, parts: list[torch.Tensor]) -> float:
    """Return the largest difference between onnxruntime's outputs and the network's.

    Numbers are compared by the deviation that they had in training, as the network gives them.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = dist.cores()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for images in parts:
        # Batches of two sizes: the size is not to be fixed in the file.
        for batch in (images[:1], images):
            (theirs,) = session.run(None, {"images": batch.numpy()})
            with evaluating(model):
                mine = model(batch).numpy()
            if theirs.shape != mine.shape or not np.isfinite(theirs).all():
                return float("nan")
            largest = max(largest, float((np.abs(theirs - mine) / model.task.unit).max()))
    return largest


def _in_layout(tiles: NDArray[np.uint8], layout: str) -> torch.Tensor:
    """Return tiles, (n, height, width, 3), as the model takes them."""
    images = torch.from_numpy(tiles)
    return images if layout == "nhwc" else images.permute(0, 3, 1, 2).contiguous()


def _real_tiles(trained: TrainedModel) -> NDArray[np.uint8]:
    """Return tiles of the run's beton, evenly apart; none if it is gone or another."""
    tile_px = trained.beton["image"]["tile_px"]
    nothing = np.zeros((0, tile_px, tile_px, 3), np.uint8)
    try:
        sidecar, loader = open_beton(Path(trained.beton["path"]), dist.cores())
    except BetonError:
        return nothing
    if sidecar.sha256 != trained.beton["sidecar_sha256"]:
        return nothing
    rows = np.unique(np.linspace(0, sidecar.samples - 1, _CHECKED_TILES).round().astype(np.int64))
    with loader.epoch(rows, len(rows)) as batches:
        tiles: NDArray[np.uint8] = next(batches)[0].copy()
    return tiles


def _export_safetensors(trained: TrainedModel, out: Path) -> ModelReport:
    """Write the weights, and config.json beside them."""
    from safetensors.torch import load, save

    config = out.with_name("config.json")
    _refuse_foreign(config)
    # Weights that are tied are one tensor under two names, which the format does not know.
    weights = {name: tensor.cpu().contiguous().clone() for name, tensor in trained.network.state_dict().items()}
    facts = _facts(trained)
    content = save(weights, metadata={"format": "pt", "slideduck": json.dumps(facts, sort_keys=True)})
    written = load(content)
    assert all(torch.equal(written[name], tensor) for name, tensor in weights.items())
    write_whole(out, lambda file: file.write(content))
    write_json(config, {**_transformers_config(trained), "slideduck": {**facts, "file": out.name}})
    write_json(out.with_name("preprocessor_config.json"), _processor_config(trained))
    return ModelReport(str(out), "safetensors", len(content), trained.epoch, trained.classes, None, None, 0, 0, 0.0)


def _transformers_config(trained: TrainedModel) -> dict[str, Any]:
    """Return what transformers' own ``config.json`` says of the network, if it is one of theirs."""
    config: Any = getattr(trained.network, "config", None)
    if not hasattr(config, "to_json_string"):
        return {}
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    values["architectures"] = [type(trained.network).__name__]
    values["id2label"] = {str(number): name for number, name in enumerate(trained.classes)}
    values["label2id"] = {name: number for number, name in enumerate(trained.classes)}
    return values


def _processor_config(trained: TrainedModel) -> dict[str, Any]:
    """Return how tiles become what the network takes, as transformers' image processors say it."""
    tile_px = trained.beton["image"]["tile_px"]
    return {
        "do_resize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in trained.standard.mean.flatten().tolist()],
        "image_std": [value / 255 for value in trained.standard.std.flatten().tolist()],
        "size": {"height": tile_px, "width": tile_px},
    }


def _refuse_foreign(config: Path) -> None:
    """Raise if a config.json that is not of an export is where this one would go."""
    if not config.exists():
        return
    try:
        ours = "file" in json.loads(config.read_text(encoding="utf-8"))["slideduck"]
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise RunError(f"{config}: another config.json is there; give a file in a folder of its own")


def _facts(trained: TrainedModel) -> Mapping[str, Any]:
    """Return the facts that users of the weights need."""
    grid, image = trained.beton["grid"], trained.beton["image"]
    um = grid["tile_um"]
    return {
        "classes": list(trained.classes),
        "task": trained.config.task,
        "model": trained.config.model,
        "tile_px": image["tile_px"],
        "tile_um": um,
        "magnification": grid["magnification"],
        "mpp": None if um is None else um / image["tile_px"],
        "grid": dict(grid),
        "image": dict(image),
        "mean": trained.standard.mean.flatten().tolist(),
        "std": trained.standard.std.flatten().tolist(),
        "run": trained.run.name,
        "epoch": trained.epoch,
        "checkpoint_sha256": trained.sha256,
        "slideduck": version("slideduck"),
    }
