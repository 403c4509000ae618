"""The network in training, on one rank: its steps and its validation. It reads tiles and writes no files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from slideduck.errors import ConfigError, RunError
from slideduck.runner import dist
from slideduck.runner.augment import Augmenter
from slideduck.runner.config import TrainConfig
from slideduck.runner.data import TrainingData, input_statistics
from slideduck.runner.dist import Place
from slideduck.runner.infer import Standard, precision_context, predict_rows
from slideduck.runner.loader import to_device
from slideduck.runner.metrics import Predictions, collect
from slideduck.runner.model import build_network, logits_of, parameter_groups
from slideduck.runner.recipe import parse_recipe
from slideduck.runner.rows import class_weights
from slideduck.runner.schedule import lr_at

__all__ = ["Learner"]

#: Steps between looks at the loss; looking makes the host wait for the device.
_STEPS_PER_CHECK = 50


class Learner:
    """A network, its optimizer and its schedule, new or as a checkpoint has them.

    Parameters
    ----------
    data : TrainingData
        The tiles.
    config : TrainConfig
        The settings.
    place : Place
        This rank.
    state : dict, optional
        A checkpoint to go on from.
    last : Path
        Where the last checkpoint is, for messages.

    Raises
    ------
    ConfigError
        If the model cannot be built, or the device does not have the precision.
    """

    def __init__(
        self, data: TrainingData, config: TrainConfig, place: Place, state: dict[str, Any] | None, last: Path
    ) -> None:
        self.data, self.config, self.place, self.last = data, config, place, last
        self.total_steps = config.epochs * data.steps
        self.warmup_steps = round(config.warmup_epochs * data.steps)
        if place.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        # A run that goes on has its weights, and what builds its network, from the checkpoint.
        architecture = state.get("architecture") if state else None
        built = build_network(config, len(data.classes), architecture=architecture, fresh=state is None)
        self.architecture, self.told, network = built.architecture, built.told, built.network
        self.image = state["image"] if state else input_statistics(data, config, built.pixels)
        self.augmenter = Augmenter(parse_recipe(config.augment), config.seed, place.device)
        self.standard = Standard(self.image["mean"], self.image["std"], place.device)
        if state:
            network.load_state_dict(state["model"])
        self.network: nn.Module = network.to(device=place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.network, config), lr=config.lr, fused=place.device.type == "cuda"
        )
        if state:
            self.optimizer.load_state_dict(state["optimizer"])
        self.model = self.network if place.world_size == 1 else dist.distribute(self.network, place)
        labels = data.sidecar.class_number[data.rows.train]
        weights = class_weights(labels, len(data.classes), config.balance, data.sampler.shares)
        self.weights = torch.from_numpy(weights).to(place.device)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the network and its training."""
        return {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"warmup_steps": self.warmup_steps, "total_steps": self.total_steps},
            "image": self.image,
            "architecture": self.architecture,
        }

    def lr(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0 over all epochs."""
        return lr_at(step, lr=self.config.lr, warmup_steps=self.warmup_steps, total_steps=self.total_steps)

    def train_epoch(self, epoch: int, waited: list[float]) -> float:
        """Do the steps of one epoch.

        Parameters
        ----------
        epoch : int
            From 0.
        waited : list of float
            Its first number grows by the seconds spent waiting for tiles.

        Returns
        -------
        float
            Mean loss of the steps, over all ranks.

        Raises
        ------
        RunError
            If a loss is not finite, with the step.
        """
        config, place = self.config, self.place
        cut = (self.data.batch_size, self.data.steps, place.rank, place.world_size)
        rows = self.data.epoch_rows(epoch, place)
        self.augmenter.epoch(epoch, *cut)
        # Dropout and the like: by seed, epoch and rank, so that a resumed run draws what it would have drawn.
        mixed = np.random.SeedSequence([config.seed, epoch, place.rank]).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(mixed >> np.uint64(1)))
        losses = torch.zeros(self.data.steps, device=place.device)
        checked = 0
        self.model.train()
        with self.data.loader.epoch(rows, self.data.batch_size) as batches:
            for index, batch in enumerate(to_device(batches, place.device, waited)):
                images = self.augmenter.apply(batch.images_BCHW, index)
                losses[index] = self._step(epoch * self.data.steps + index, self.standard(images), batch.labels)
                if (index + 1) % _STEPS_PER_CHECK == 0 or index + 1 == self.data.steps:
                    self._check_losses(epoch, checked, dist.average(losses[checked : index + 1], place))
                    checked = index + 1
        self._average_running_statistics()
        return float(losses.double().mean())

    def validate(self) -> Predictions | None:
        """Predict every validation tile once over all ranks; return them all on rank 0, None elsewhere."""
        place = self.place
        mine = predict_rows(
            self.network,
            self.data.loader,
            self.data.rows.val[place.rank :: place.world_size],
            self.config.batch_size_per_rank,
            self.standard,
            self.config.precision,
            place.device,
            len(self.data.classes),
        )
        parts = [dist.gather(array, place) for array in (mine.rows, mine.labels, mine.log_probabilities)]
        rows, labels, log_probabilities = parts
        if rows is None or labels is None or log_probabilities is None:
            return None
        joined = [Predictions(*part) for part in zip(rows, labels, log_probabilities, strict=True)]
        return collect(joined, self.data.rows.val)

    def not_finite(self, epoch: int, step: int, what: str, number: float) -> str:
        """Return the message for a loss that is not a finite number."""
        kept = f"epoch {epoch} is kept in {self.last}" if epoch else "no epoch is whole yet"
        return (
            f"epoch {epoch + 1}, step {step}: the {what} is {number}; {kept}; "
            f"start another run with a lower --lr (it is {self.config.lr:g}) or with --precision fp32"
        )

    def _step(self, step: int, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Do one step and return this rank's loss, on the device."""
        lr = self.lr(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        with precision_context(self.config.precision, self.place.device):
            logits = logits_of(self.model(images))
        if logits.shape != (len(labels), len(self.data.classes)):
            raise ConfigError(
                f"model {self.config.model!r} returned logits of shape {tuple(logits.shape)} for "
                f"{len(labels)} tiles and {len(self.data.classes)} classes; "
                f"it must return {(len(labels), len(self.data.classes))}"
            )
        each = nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        loss = (each * self.weights[labels]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.grad_clip > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        return loss.detach()

    def _check_losses(self, epoch: int, first: int, losses: torch.Tensor) -> None:
        """Raise if a loss since the last look is not finite; the same on every rank."""
        numbers = losses.tolist()
        for index, number in enumerate(numbers, start=epoch * self.data.steps + first + 1):
            if not math.isfinite(number):
                raise RunError(self.not_finite(epoch, index, "loss", number))

    def _average_running_statistics(self) -> None:
        """Average batch norm's running statistics over ranks, so that all hold the same network."""
        if self.place.world_size == 1:
            return
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                dist.average(module.running_mean, self.place)
                assert module.running_var is not None
                dist.average(module.running_var, self.place)
