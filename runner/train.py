"""Training: what every rank does, and how a run starts, stops and goes on.

An epoch counts once ``last.pt`` is in place. The order of tiles, their augmentation and the network's
own random numbers are set anew from (seed, epoch) at the start of each epoch, so that a run which was
killed and started again computes what an uninterrupted one does, to the bit on a CPU with the same
number of threads.

A run may be given more epochs than it was started with, and goes on: its steps then follow the schedule
of the new length from there on, which is not the schedule of a run that had this length from the start.
Any other change of its settings is refused.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from slideduck.beton import Sidecar, check_beton, read_sidecar
from slideduck.console import message
from slideduck.errors import BetonError, ConfigError, RunError
from slideduck.runner import dist
from slideduck.runner.augment import epoch_positions, turn
from slideduck.runner.checkpoint import lock_folder
from slideduck.runner.config import TrainConfig
from slideduck.runner.curves import draw_curves
from slideduck.runner.dist import Place
from slideduck.runner.infer import Standard, precision_context, predict_rows, write_predictions
from slideduck.runner.loader import TileLoader, epoch_rows, steps_and_batch, to_device
from slideduck.runner.metrics import Predictions, collect, compute_metrics, plain
from slideduck.runner.model import build_model, logits_of, parameter_groups
from slideduck.runner.rows import class_weights, run_rows
from slideduck.runner.runfolder import RunFolder, versions
from slideduck.runner.schedule import lr_at

__all__ = ["beton_facts", "open_beton", "train", "train_rank"]

#: Steps between looks at the loss; looking makes the host wait for the device.
_STEPS_PER_CHECK = 50

#: Tiles whose mean and deviation stand for those of all.
_TILES_FOR_STATISTICS = 2048

_SECONDS_BETWEEN_PICTURES = 20.0


def train(
    beton: Path | str,
    run: Path | str,
    config: TrainConfig | None = None,
    *,
    nproc: str | int = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Train a network on a beton, or go on with a run that was stopped.

    Parameters
    ----------
    beton : path
        The beton; its side-car is beside it.
    run : path
        The run's folder.
    config : TrainConfig, optional
        The settings.
    nproc : str or int
        Processes: ``"auto"`` is one a GPU, or one without any. Under a launcher such as torchrun, this
        process joins those that it started.
    progress : bool
        Tell on standard error how it goes, a line an epoch.

    Returns
    -------
    dict
        ``run``, ``epochs``, ``best_epoch``, ``metrics`` (of the best epoch) and ``checkpoint``.

    Raises
    ------
    ConfigError, BetonError, RunError, DiskFullError
        Each says what to do; the last whole epoch is never lost.
    """
    settings = (config or TrainConfig()).to_dict()
    beton, run = str(Path(beton).absolute()), str(Path(run).absolute())
    if dist.is_joining():
        return train_rank(beton, run, settings, progress)
    count = dist.resolve_nproc(nproc)
    if count == 1:
        return train_rank(beton, run, settings, progress)
    result: dict[str, Any] = dist.launch(count, train_rank, beton, run, settings, progress)
    return result


def train_rank(beton: str, run: str, settings: dict[str, Any], progress: bool = True) -> dict[str, Any]:
    """Do one rank's part of a run; spawned processes start here.

    Parameters
    ----------
    beton, run : str
        Absolute paths.
    settings : dict
        As from `TrainConfig.to_dict`.
    progress : bool
        Tell on standard error how it goes; rank 0 only.
    """
    with dist.joined() as place:
        config = TrainConfig.from_dict(settings)
        training = _Training(Path(beton), RunFolder(run), config, place, progress and place.is_first)
        with lock_folder(Path(run)) if place.is_first else nullcontext():
            return training.run()


def open_beton(beton: Path, threads: int) -> tuple[Sidecar, TileLoader]:
    """Return a beton's side-car and a loader of its tiles.

    Raises
    ------
    BetonError
        If either is damaged, or they do not belong together.
    """
    info = check_beton(beton)
    sidecar = read_sidecar(beton, info)
    loader = TileLoader(beton, threads, info=info)
    if not np.array_equal(loader.labels, sidecar.class_number):
        raise BetonError(f"{beton}: its side-car is of another beton: labels differ; export the beton again")
    return sidecar, loader


def beton_facts(beton: Path, sidecar: Sidecar) -> dict[str, Any]:
    """Return what a run keeps of the beton it was trained on."""
    return {
        "path": str(beton),
        "sidecar_sha256": sidecar.sha256,
        "metadata_sha256": sidecar.raw["beton"]["metadata_sha256"],
        "samples": sidecar.samples,
        "image": dict(sidecar.raw["beton"]["image"]),
        "grid": dict(sidecar.raw["grid"]),
    }


class _Training:
    """A run on one rank."""

    def __init__(self, beton: Path, folder: RunFolder, config: TrainConfig, place: Place, progress: bool) -> None:
        self.beton, self.folder, self.config, self.place = beton, folder, config, place
        self.progress = progress
        precision_context(config.precision, place.device)
        self.sidecar, self.loader = open_beton(beton, place.threads)
        self.classes = list(self.sidecar.classes)
        if len(self.classes) < 2:
            raise ConfigError(f"{beton}: its only class is {self.classes[0]!r}; a network needs two or more")
        self.rows = run_rows(self.sidecar, config, beton)
        self.steps, self.batch_size = steps_and_batch(
            len(self.rows.train), config.batch_size_per_rank, place.world_size
        )
        if self.batch_size < 2:
            raise ConfigError(
                f"{beton}: {len(self.rows.train)} training tiles for {place.world_size} processes with "
                f"batches of {config.batch_size_per_rank}; each process needs two tiles a step: "
                "give fewer with --nproc, or a larger --batch-size"
            )
        self.total_steps = config.epochs * self.steps
        self.warmup_steps = round(config.warmup_epochs * self.steps)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.pictured = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Train the epochs that are left and return the summary."""
        state, lacks_best = self._open_folder()
        first_epoch = state["epoch"] if state else 0
        if first_epoch < self.config.epochs or lacks_best:
            self._build(state)
        if state and lacks_best:
            self._write_missing_best(state)
        if first_epoch >= self.config.epochs:
            self._tell(
                f"{self.folder.path}: finished, {len(self.history)} of {self.config.epochs} epochs, best epoch "
                f"{self.best['epoch']} with balanced accuracy {self.best['balanced_accuracy']:.4f}; "
                f"nothing to do. --epochs {2 * self.config.epochs} would go on"
            )
            if not self.folder.curves.exists():
                self._draw()
            return self._summary()
        for epoch in range(first_epoch, self.config.epochs):
            self._epoch(epoch)
        self._draw()
        return self._summary()

    def _tell(self, text: str) -> None:
        """Say something on standard error, where that is wanted; rank 0 only."""
        if self.progress:
            message(text)

    def _open_folder(self) -> tuple[dict[str, Any] | None, bool]:
        """Check the folder against the settings; rank 0 looks and tells the others.

        Returns
        -------
        state : dict or None
            The last checkpoint.
        lacks_best : bool
            True if a kill came before the files of the best epoch.
        """
        state: dict[str, Any] | None = None
        lacks_best = False
        if self.place.is_first:
            state = self.folder.open(
                {
                    "settings": self.config.to_dict(),
                    "world_size": self.place.world_size,
                    "global_batch": self.config.batch_size_per_rank * self.place.world_size,
                    "classes": self.classes,
                    "beton": beton_facts(self.beton, self.sidecar),
                    "versions": versions(),
                }
            )
            if state:
                self.folder.restore_metrics(state["history"])
                lacks_best = self.folder.lacks_best(state["best"]["epoch"])
        state, lacks_best = dist.broadcast((state, lacks_best), self.place)
        if state:
            self.history, self.best = list(state["history"]), dict(state["best"])
            if state["epoch"] < self.config.epochs:
                self._tell(f"resuming after epoch {state['epoch']} of {self.config.epochs} ({self.folder.path})")
        else:
            self._say_start()
        return state, lacks_best

    def _build(self, state: dict[str, Any] | None) -> None:
        """Make the network, its optimizer and what its input is standardised with."""
        config, device = self.config, self.place.device
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        mean, std = (state["image"]["mean"], state["image"]["std"]) if state else self._statistics()
        self.image = {"mean": mean, "std": std}
        self.standard = Standard(mean, std, device)
        self.network = build_model(config.model, len(self.classes), config.seed)
        if state:
            self.network.load_state_dict(state["model"])
        self.network = self.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.network, config.weight_decay), lr=config.lr, fused=device.type == "cuda"
        )
        if state:
            self.optimizer.load_state_dict(state["optimizer"])
        self.model: nn.Module = self.network
        if self.place.world_size > 1:
            self.model = dist.distribute(self.network, self.place)
        labels = self.sidecar.class_number[self.rows.train]
        self.weights = torch.from_numpy(class_weights(labels, len(self.classes), config.balance)).to(device)

    def _statistics(self) -> tuple[list[float], list[float]]:
        """Return mean and deviation of the training tiles, a channel each, from exact counts."""
        rows = self.rows.train
        if len(rows) > _TILES_FOR_STATISTICS:
            chosen = np.random.default_rng(self.config.seed).choice(rows, _TILES_FOR_STATISTICS, replace=False)
            rows = np.sort(chosen)
        counts = np.zeros((3, 256), np.int64)
        with self.loader.epoch(rows, 64) as batches:
            for images, _labels, _rows in batches:
                for channel in range(3):
                    counts[channel] += np.bincount(images[..., channel].reshape(-1), minlength=256)
        values = np.arange(256)
        n = counts.sum(axis=1)
        mean = counts @ values / n
        deviation = np.sqrt(counts @ values**2 / n - mean**2)
        return mean.tolist(), np.maximum(deviation, 1.0).tolist()

    def _epoch(self, epoch: int) -> None:
        """Train and validate one epoch, then make it count."""
        started = time.perf_counter()
        waited = [0.0]
        loss = self._train_epoch(epoch, waited)
        self._average_running_statistics()
        trained = time.perf_counter()
        predictions = self._validate()
        if predictions is None:
            return
        validated = time.perf_counter()
        slides = self.sidecar.slide[predictions.rows].astype(np.int64)
        metrics = compute_metrics(predictions, slides, self.classes)
        if not math.isfinite(metrics["loss"]):
            raise RunError(self._not_finite(epoch, (epoch + 1) * self.steps, "validation loss", metrics["loss"]))
        seconds = trained - started
        line = {
            "epoch": epoch + 1,
            "step": (epoch + 1) * self.steps,
            "lr": self._lr((epoch + 1) * self.steps - 1),
            "train/loss": loss,
            **{f"val/{name}": value for name, value in metrics.items()},
            "time/epoch_s": round(validated - started, 4),
            "time/train_s": round(seconds, 4),
            "time/val_s": round(validated - trained, 4),
            "time/load_share": round(waited[0] / seconds, 4),
            "throughput/tiles_per_s": round(self.steps * self.batch_size * self.place.world_size / seconds, 1),
        }
        if self.place.device.type == "cuda":
            line["memory/GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
        self._commit(plain(line), predictions)

    def _train_epoch(self, epoch: int, waited: list[float]) -> float:
        """Do the steps of one epoch and return its mean loss over all ranks."""
        config, place = self.config, self.place
        cut = (self.batch_size, self.steps, place.rank, place.world_size)
        rows = epoch_rows(self.rows.train, config.seed, epoch, *cut)
        positions = torch.from_numpy(epoch_positions(config.seed, epoch, *cut)).to(place.device)
        # Dropout and the like: by seed, epoch and rank, so that a resumed run draws what it would have drawn.
        mixed = np.random.SeedSequence([config.seed, epoch, place.rank]).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(mixed >> np.uint64(1)))
        losses = torch.zeros(self.steps, device=place.device)
        checked = 0
        self.model.train()
        with self.loader.epoch(rows, self.batch_size) as batches:
            for index, batch in enumerate(to_device(batches, place.device, waited)):
                images = batch.images_BCHW
                if config.augment == "d4":
                    images = turn(images, positions[index])
                losses[index] = self._step(epoch * self.steps + index, self.standard(images), batch.labels)
                if (index + 1) % _STEPS_PER_CHECK == 0 or index + 1 == self.steps:
                    self._check_losses(epoch, checked, dist.average(losses[checked : index + 1], place))
                    checked = index + 1
        return float(losses.double().mean())

    def _step(self, step: int, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Do one step and return this rank's loss, on the device."""
        lr = self._lr(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with precision_context(self.config.precision, self.place.device):
            logits = logits_of(self.model(images))
        if logits.shape != (len(labels), len(self.classes)):
            raise ConfigError(
                f"model {self.config.model!r} returned logits of shape {tuple(logits.shape)} for "
                f"{len(labels)} tiles and {len(self.classes)} classes; "
                f"it must return {(len(labels), len(self.classes))}"
            )
        each = nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        loss = (each * self.weights[labels]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.grad_clip > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        return loss.detach()

    def _lr(self, step: int) -> float:
        """Return the learning rate of a step."""
        return lr_at(step, lr=self.config.lr, warmup_steps=self.warmup_steps, total_steps=self.total_steps)

    def _check_losses(self, epoch: int, first: int, losses: torch.Tensor) -> None:
        """Raise if a loss since the last look is not finite; the same on every rank."""
        numbers = losses.tolist()
        for index, number in enumerate(numbers, start=epoch * self.steps + first + 1):
            if not math.isfinite(number):
                raise RunError(self._not_finite(epoch, index, "loss", number))

    def _not_finite(self, epoch: int, step: int, what: str, number: float) -> str:
        """Return the message for a loss that is not a finite number."""
        kept = f"epoch {epoch} is kept in {self.folder.last}" if epoch else "no epoch is whole yet"
        return (
            f"epoch {epoch + 1}, step {step}: the {what} is {number}; {kept}; "
            f"start another run with a lower --lr (it is {self.config.lr:g}) or with --precision fp32"
        )

    def _average_running_statistics(self) -> None:
        """Average batch norm's running statistics over ranks, so that all hold the same network."""
        if self.place.world_size == 1:
            return
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                dist.average(module.running_mean, self.place)
                assert module.running_var is not None
                dist.average(module.running_var, self.place)

    def _validate(self) -> Predictions | None:
        """Predict every validation tile once over all ranks; return them all on rank 0."""
        place = self.place
        mine = predict_rows(
            self.network,
            self.loader,
            self.rows.val[place.rank :: place.world_size],
            self.config.batch_size_per_rank,
            self.standard,
            self.config.precision,
            place.device,
            len(self.classes),
        )
        parts = [dist.gather(array, place) for array in (mine.rows, mine.labels, mine.log_probabilities)]
        rows, labels, log_probabilities = parts
        if rows is None or labels is None or log_probabilities is None:
            return None
        joined = [Predictions(*part) for part in zip(rows, labels, log_probabilities, strict=True)]
        return collect(joined, self.rows.val)

    def _commit(self, line: dict[str, Any], predictions: Predictions) -> None:
        """Save the epoch; rank 0 only. The checkpoint comes first, the rest can be made from it."""
        self.history.append(line)
        score = (line["val/balanced_accuracy"], -line["val/loss"])
        is_best = not self.best or score > (self.best["balanced_accuracy"], -self.best["loss"])
        if is_best:
            self.best = {"epoch": line["epoch"], "balanced_accuracy": score[0], "loss": line["val/loss"]}
        state = self._state(line["epoch"])
        self.folder.commit(state)
        if is_best:
            self._write_best(state, predictions)
        self.folder.add_metrics(line)
        self._tell(
            f"epoch {line['epoch']:>3}/{self.config.epochs}  loss {line['train/loss']:.4f}  "
            f"val loss {line['val/loss']:.4f}  balanced accuracy {line['val/balanced_accuracy']:.4f}"
            f"{' (best)' if is_best else '       '}  {line['throughput/tiles_per_s']:,.0f} tiles/s, "
            f"{100 * line['time/load_share']:.0f} % of the time waiting for tiles"
        )
        if time.monotonic() - self.pictured > _SECONDS_BETWEEN_PICTURES:
            self._draw()
            self.pictured = time.monotonic()

    def _state(self, epoch: int) -> dict[str, Any]:
        """Return the checkpoint: all that resuming, evaluating and predicting need."""
        return {
            "epoch": epoch,
            "step": epoch * self.steps,
            "schedule": {"warmup_steps": self.warmup_steps, "total_steps": self.total_steps},
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "config": self.config.to_dict(),
            "world_size": self.place.world_size,
            "classes": self.classes,
            "image": self.image,
            "beton": beton_facts(self.beton, self.sidecar),
            "best": self.best,
            "history": self.history,
            "versions": versions(),
        }

    def _write_best(self, state: dict[str, Any], predictions: Predictions) -> None:
        """Write the files of the best epoch."""
        self.folder.write_best(state)
        facts = {"epoch": str(state["epoch"]), "run": self.folder.path.name}
        write_predictions(self.folder.predictions, predictions, self.sidecar, self.classes, facts)

    def _write_missing_best(self, state: dict[str, Any]) -> None:
        """Write the files of the best epoch where a kill came before them."""
        if self.best["epoch"] != state["epoch"]:
            raise RunError(
                f"{self.folder.best} or {self.folder.predictions.name} of epoch {self.best['epoch']} "
                "is missing; put it back, or train again with another --run"
            )
        predictions = self._validate()
        if predictions is not None:
            self._write_best(state, predictions)

    def _draw(self) -> None:
        """Draw the curves; rank 0 only."""
        if self.place.is_first and self.history:
            title = f"{self.folder.path.name}: {self.config.model} on {self.beton.name}"
            draw_curves(self.history, self.classes, self.best["epoch"], self.folder.curves, title)

    def _say_start(self) -> None:
        """Tell what is about to be trained, and what cannot be learnt."""
        rows = self.rows
        self._tell(
            f"training {self.config.model} on {len(rows.train):,} tiles, validating on {len(rows.val):,}, "
            f"{len(self.classes)} classes ({', '.join(self.classes)}); "
            f"{self.place.world_size} x {self.place.device.type}, "
            f"{self.steps} steps of {self.batch_size * self.place.world_size} tiles an epoch"
        )
        if rows.unlabelled:
            self._tell(f"{rows.unlabelled:,} tiles without a label are left out")
        counts = np.bincount(self.sidecar.class_number[rows.train], minlength=len(self.classes))
        absent = [name for name, count in zip(self.classes, counts, strict=True) if count == 0]
        if absent:
            self._tell(f"warning: no training tile is of class {', '.join(absent)}: it cannot be learnt")

    def _summary(self) -> dict[str, Any]:
        """Return what a caller wants to know, on rank 0; nothing elsewhere."""
        if not self.place.is_first:
            return {}
        best_epoch = self.best["epoch"]
        return {
            "run": str(self.folder.path),
            "checkpoint": str(self.folder.best),
            "epochs": len(self.history),
            "best_epoch": best_epoch,
            "metrics": next(line for line in self.history if line["epoch"] == best_epoch),
        }
