"""The network in training, on one rank: its steps and its validation. It reads tiles and writes no files."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from slideduck.errors import RunError
from slideduck.runner.networks.build import Built, build_network, parameter_groups
from slideduck.runner.networks.forward import Forward, Standard, evaluating, logits_of, precision_context
from slideduck.runner.networks.given import Network
from slideduck.runner.ranks import dist
from slideduck.runner.ranks.dist import Place
from slideduck.runner.ranks.sharding import gradients_stay, is_sharded, shard, sharded_state, whole, whole_state
from slideduck.runner.scores.predictions import Predictions, collect
from slideduck.runner.settings.recipe import parse_recipe
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tasks.infer import predict_rows
from slideduck.runner.tasks.kinds import make_task
from slideduck.runner.tiles.augment import Augmenter
from slideduck.runner.tiles.loader import Batch, to_device
from slideduck.runner.tiles.open import TrainingData, input_statistics
from slideduck.runner.training.averaging import AveragedNetwork
from slideduck.runner.training.schedule import lr_at

__all__ = ["EpochPart", "Learner", "NotFinite", "steps_of_epoch"]


class NotFinite(Exception):
    """A loss or a gradient that is not a finite number: what it is, its step and its value."""

    def __init__(self, what: str, step: int, number: float) -> None:
        self.what, self.step, self.number = what, step, number
        super().__init__(what, step, number)


def steps_of_epoch(batches: int, accumulate: int) -> tuple[int, int]:
    """Return the steps of an epoch, and the batches that each rank takes in one.

    An epoch is as many whole steps as there are; with fewer batches than one step takes it is a single
    smaller step.
    """
    each = min(accumulate, batches)
    return batches // each, each


@dataclass
class EpochPart:
    """The progress of an epoch, which a checkpoint within it holds.

    Attributes
    ----------
    losses : torch.Tensor of float64, (steps,)
        Mean loss of each step done, over ranks up to `looked` and on this rank from there.
    norms : torch.Tensor of float64, (steps,)
        Norm of the gradient at each step done, before clipping.
    done, looked : int
        Steps done, and those that `Learner.look` has averaged and found finite.
    seconds, waited_s : float
        Time of the steps done, and the part of it spent waiting for tiles.
    """

    losses: torch.Tensor
    norms: torch.Tensor
    done: int = 0
    looked: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0

    @classmethod
    def new(cls, steps: int, device: torch.device) -> EpochPart:
        """Return the part of an epoch of which no step is done."""
        zeros = torch.zeros(steps, dtype=torch.float64, device=device)
        return cls(zeros, zeros.clone())

    def state(self) -> dict[str, Any]:
        """Return its state for a checkpoint."""
        return {
            "losses": self.losses[: self.done].tolist(),
            "norms": self.norms[: self.done].tolist(),
            "seconds": self.seconds,
            "waited_s": self.waited_s,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load its state from a checkpoint."""
        self.done = self.looked = len(state["losses"])
        self.losses[: self.done] = torch.tensor(state["losses"], dtype=torch.float64)
        self.norms[: self.done] = torch.tensor(state["norms"], dtype=torch.float64)
        self.seconds, self.waited_s = state["seconds"], state["waited_s"]


@contextmanager
def _fitting() -> Iterator[None]:
    """Turn what torch raises where a checkpoint does not fit the network into an error of ours.

    Raises
    ------
    RunError
        With the reason.
    """
    try:
        yield
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        if dist.is_out_of_memory(error):
            raise
        raise RunError(
            f"the checkpoint of the run does not fit its network ({type(error).__name__}: {error}); has its function "
            "changed? Train again with another `run`"
        ) from error


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
    given : callable or nn.Module, optional
        What builds the network in place of its name.
    first : Built, optional
        The network of a new run, where it is built already.

    Attributes
    ----------
    steps : int
        Steps of an epoch.
    lr_factor : float
        What a plateau has made of the learning rate.

    Raises
    ------
    ConfigError
        If the model cannot be built, or the device does not have the precision.
    """

    def __init__(
        self,
        data: TrainingData,
        config: TrainConfig,
        place: Place,
        state: dict[str, Any] | None,
        given: Network | None = None,
        first: Built | None = None,
    ) -> None:
        self.data, self.config, self.place = data, config, place
        self.steps, self.batches_per_step = steps_of_epoch(data.steps, config.accumulate)
        self.total_steps = config.epochs * self.steps
        self.warmup_steps = round(config.warmup_epochs * self.steps)
        self.lr_factor = 1.0
        if place.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        # A run that goes on has its weights, and what builds its network, from the checkpoint.
        architecture = state.get("architecture") if state else None
        self.task = make_task(
            config, data.classes, place.device, targets=data.targets[data.rows.train], shares=data.sampler.shares
        )
        built = first if state is None else None
        if built is None:
            fresh = state is None
            built = build_network(config, self.task.n_outputs, architecture=architecture, fresh=fresh, network=given)
        self.architecture, self.told, network = built.architecture, built.told, built.network
        self.image = state["image"] if state else input_statistics(data, config, built.pixels)
        self.augmenter = Augmenter(parse_recipe(config.augment), config.seed, place.device)
        self.standard = Standard(self.image["mean"], self.image["std"], place.device)
        if state:
            with _fitting():
                network.load_state_dict(state["trained"] if config.ema_decay else state["model"])
        self.network: nn.Module
        if config.shard == "fsdp" and place.world_size > 1:
            # From the CPU: no device has to hold it whole.
            self.network = shard(network, place)
        else:
            self.network = network.to(device=place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged: AveragedNetwork | None = None
        if config.ema_decay:
            self.averaged = AveragedNetwork(self.network, config.ema_decay, state["step"] if state else 0)
            if state:
                with _fitting():
                    self.averaged.network.load_state_dict(state["model"])
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.network, config), lr=config.lr, fused=place.device.type == "cuda"
        )
        if state:
            with _fitting():
                self.optimizer.load_state_dict(sharded_state(state["optimizer"], self.optimizer))
        # What is called in training; the plain network keeps the names of its weights.
        plain = place.world_size == 1 or is_sharded(self.network)
        self.distributed = self.network if plain else self._shared(place)
        if state:
            with _fitting():
                self._load_buffers(state["buffers_of_ranks"])
        self.model = self._compiled(self.distributed)

    @property
    def inference_network(self) -> nn.Module:
        """The network that validates and predicts: the averaged one, where there is one."""
        return self.averaged.network if self.averaged else self.network

    @property
    def forward(self) -> Forward:
        """That network, from tiles to outputs."""
        return Forward(self.inference_network, self.standard, self.config.precision, self.place.device)

    def _shared(self, place: Place) -> nn.Module:
        """Return the network with its gradients averaged over ranks."""
        return dist.distribute(self.network, place, unused=self.config.unused_parameters == "allow")

    def state(self) -> dict[str, Any]:
        """Return the state of network and training for a checkpoint; every rank is to call it.

        ``model`` is what predicts; ``trained`` are the weights that training goes on with, where they differ.
        """
        state = {
            "model": whole_state(self.inference_network.state_dict(), self.place),
            "optimizer": whole_state(self.optimizer.state_dict(), self.place),
            "schedule": {"warmup_steps": self.warmup_steps, "total_steps": self.total_steps},
            "image": self.image,
            "architecture": self.architecture,
            "objective": self.task.state(),
            "buffers_of_ranks": self._gathered_buffers(),
        }
        if self.averaged:
            state["trained"] = self.network.state_dict()
        return state

    def lr(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0 over all epochs."""
        return lr_at(
            step,
            lr=self.config.lr,
            warmup_steps=self.warmup_steps,
            total_steps=self.total_steps,
            schedule=self.config.schedule,
            factor=self.lr_factor,
        )

    def new_part(self) -> EpochPart:
        """Return the part of an epoch of which no step is done."""
        return EpochPart.new(self.steps, self.place.device)

    def train(self, epoch: int, part: EpochPart) -> Generator[int]:
        """Do the remaining steps of an epoch; close the generator to leave it early.

        Parameters
        ----------
        epoch : int
            From 0.
        part : EpochPart
            How far the epoch is; it is brought up to date before each yield.

        Yields
        ------
        int
            Steps of the epoch done.
        """
        place, each = self.place, self.batches_per_step
        cut = (self.data.batch_size, self.data.steps, place.rank, place.world_size)
        rows = self.data.epoch_rows(epoch, place)
        rows = rows[part.done * each * self.data.batch_size : self.steps * each * self.data.batch_size]
        self.augmenter.epoch(epoch, *cut)
        self.model.train()
        last, waited, waited_before = time.perf_counter(), [0.0], part.waited_s
        with self.data.loader.epoch(rows, self.data.batch_size) as reading:
            batches = to_device(reading, place.device, waited)
            while part.done < self.steps:
                part.losses[part.done], part.norms[part.done] = self._step(epoch, part.done, batches)
                part.done += 1
                now = time.perf_counter()
                part.seconds, last = part.seconds + now - last, now
                part.waited_s = waited_before + waited[0]
                yield part.done

    def finish_epoch(self) -> None:
        """Make the networks of all ranks the same, after the last step of an epoch."""
        self._average_running_statistics(self.network)
        if self.averaged:
            self._average_running_statistics(self.averaged.network)

    def look(self, epoch: int, part: EpochPart) -> None:
        """Average the losses since the last look over ranks, and check them; it waits for the device.

        Raises
        ------
        NotFinite
            On every rank, for the first loss or norm of a gradient that is not finite.
        """
        new = slice(part.looked, part.done)
        # In double precision a sum of some ranks' losses is exact, and so the same in any order.
        losses = dist.average(part.losses[new], self.place).tolist()
        for index, (loss, norm) in enumerate(zip(losses, part.norms[new].tolist(), strict=True), start=part.looked):
            for what, number in (("loss", loss), ("norm of the gradient", norm)):
                if not math.isfinite(number):
                    raise NotFinite(what, epoch * self.steps + index + 1, number)
        part.looked = part.done

    def validate(self) -> Predictions | None:
        """Predict every validation tile once over all ranks; return them all on rank 0, None elsewhere."""
        place = self.place
        rows = self.data.rows.val[place.rank :: place.world_size]
        mine = predict_rows(self.forward, self.task, self.data.loader, rows, self.config.batch_size_per_rank)
        if is_sharded(self.inference_network):
            self._keep_pace(len(mine.rows))
        rows_of, targets_of, outputs_of = (
            dist.gather(array, place) for array in (mine.rows, mine.targets, mine.outputs)
        )
        if rows_of is None or targets_of is None or outputs_of is None:
            return None
        kind: type[Predictions] = self.task.predictions
        joined = [kind(*part) for part in zip(rows_of, targets_of, outputs_of, strict=True)]
        return collect(joined, self.data.rows.val)

    def _keep_pace(self, predicted: int) -> None:
        """Call a sharded network as often as the rank with most tiles does: each call needs all ranks."""
        size = self.config.batch_size_per_rank
        most = math.ceil(len(self.data.rows.val) / self.place.world_size)
        tile_px = self.data.sidecar.raw["beton"]["image"]["tile_px"]
        blank = torch.zeros(1, 3, tile_px, tile_px, dtype=torch.uint8, device=self.place.device)
        with evaluating(self.inference_network):
            for _ in range(math.ceil(most / size) - math.ceil(predicted / size)):
                self.forward(blank)

    def _step(self, epoch: int, index: int, batches: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Do one step of an epoch; return this rank's loss and the gradient's norm, on the device."""
        lr = self.lr(epoch * self.steps + index)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for number in range(index * self.batches_per_step, (index + 1) * self.batches_per_step):
            batch = next(batches)
            self._seed(epoch, number)
            is_last = number + 1 == (index + 1) * self.batches_per_step
            # Gradients travel with the last batch of a step.
            with nullcontext() if is_last else gradients_stay(self.distributed):
                loss = self._loss(batch, self._augmented(batch, number)) / self.batches_per_step
                loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        parameters = list(self.network.parameters())
        if self.config.grad_clip > 0:
            norm = nn.utils.clip_grad_norm_(parameters, self.config.grad_clip)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = whole(norm)
        self.optimizer.step()
        if self.averaged:
            self.averaged.update(self.network)
        return torch.stack(losses).sum(), norm

    def _seed(self, epoch: int, number: int) -> None:
        """Seed the network's random numbers, such as dropout's, by seed, epoch, batch of the epoch and rank.

        So a run that goes on in the middle of an epoch draws what it would have drawn.
        """
        key = [self.config.seed, epoch, number, self.place.rank]
        mixed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(mixed >> np.uint64(1)))

    def _augmented(self, batch: Batch, number: int) -> torch.Tensor:
        """Return the tiles of a batch of the epoch, augmented and standardised."""
        return self.standard(self.augmenter.apply(batch.images_BCHW, number))

    def _loss(self, batch: Batch, images: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch."""
        with precision_context(self.config.precision, self.place.device):
            outputs = logits_of(self.model(images))
        return self.task.loss(outputs, batch.labels).mean()

    def _compiled(self, model: nn.Module) -> nn.Module:
        """Return the network as training calls it: compiled, if the settings say so."""
        wanted = self.config.compile == "on" or (self.config.compile == "auto" and self.place.device.type == "cuda")
        # Distributed first: torch then cuts the graph where gradients are sent.
        return torch.compile(model) if wanted else model  # type: ignore[return-value]

    def _networks(self) -> dict[str, nn.Module]:
        """Return the networks in training by name."""
        return {"network": self.network, **({"averaged": self.averaged.network} if self.averaged else {})}

    def _gathered_buffers(self) -> list[dict[str, Any]] | None:
        """Return the buffers of each rank's networks on rank 0; None elsewhere.

        Within an epoch each rank has running statistics of its own.
        """
        file = io.BytesIO()
        torch.save({name: dict(network.named_buffers()) for name, network in self._networks().items()}, file)
        parts = dist.gather(np.frombuffer(file.getvalue(), np.uint8), self.place)
        if parts is None:
            return None
        return [torch.load(io.BytesIO(part.tobytes()), map_location="cpu", weights_only=True) for part in parts]

    def _load_buffers(self, of_ranks: list[dict[str, Any]]) -> None:
        """Take over this rank's buffers.

        With another number of ranks than before each takes the mean of them all, as after an epoch.
        """
        same = len(of_ranks) == self.place.world_size
        for name, network in self._networks().items():
            for key, buffer in network.named_buffers():
                parts = [part[name][key] for part in of_ranks]
                if same:
                    buffer.copy_(parts[self.place.rank])
                else:
                    buffer.copy_(torch.stack(parts).mean(dim=0) if torch.is_floating_point(buffer) else parts[0])

    def _average_running_statistics(self, network: nn.Module) -> None:
        """Average batch norm's running statistics over ranks, so that all hold the same network."""
        if self.place.world_size == 1:
            return
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                dist.average(module.running_mean, self.place)
                assert module.running_var is not None
                dist.average(module.running_var, self.place)
