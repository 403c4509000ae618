"""The settings of a run: one frozen dataclass that refuses impossible values by name and value."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any

from slideduck.errors import ConfigError
from slideduck.runner.settings.modelnames import BUILT_IN, ENCODERS, MODELS, check_model
from slideduck.runner.settings.recipe import PRESETS, parse_recipe
from slideduck.runner.settings.trackers import TRACKERS, tracker_names

__all__ = ["BY_COLUMNS", "GROUPS", "MODELS", "SAMPLE_COLUMNS", "TrainConfig", "shown", "writable"]

#: Columns of the side-car that tiles can be balanced by.
SAMPLE_COLUMNS = (
    "slide", "patient", "site", "split", "fold", "label", "class", "roi_name", "grid_x", "grid_y", "loc_x", "loc_y",
)  # fmt: skip

#: Columns of the side-car that metrics can be told apart by.
BY_COLUMNS = ("slide", "patient", "site", "split", "fold", "label", "roi_name")

#: Settings by what they are about, in the order of ``slideduck train --help``; each is in one group.
GROUPS = {
    "Tiles": (
        "train_split", "val_split", "fold", "where", "train_where", "val_where", "sample", "replacement", "epoch_tiles",
        "clip", "balance", "augment",
    ),
    "Network": (
        "model", "weights", "normalise", "input_px", "train_layers", "dropout", "drop_path", "compile", "precision",
        "shard", "unused_parameters",
    ),
    "Targets": ("task", "target", "loss", "focal_gamma", "label_smoothing"),
    "Steps": (
        "epochs", "batch_size_per_rank", "accumulate", "lr", "schedule", "warmup_epochs", "plateau_patience",
        "plateau_factor", "layer_decay", "head_lr", "weight_decay", "grad_clip", "ema_decay", "seed",
    ),
    "Best epoch and early end": (
        "best_metric", "best_direction", "stop_metric", "stop_direction", "stop_patience", "stop_min_delta",
    ),
    "Checkpoints and logs": ("checkpoint_steps", "checkpoint_minutes", "log_steps", "track"),
}  # fmt: skip


def _setting(default: Any, unit: str, text: str, choices: tuple[str, ...] = ()) -> Any:
    """Return a dataclass field that carries its unit, its sentence and its choices."""
    return field(default=default, metadata={"unit": unit, "text": text, "choices": choices})


#: Python's types of the types of fields.
_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "int | None": (int, type(None)),
    "str | None": (str, type(None)),
}
_GREATEST = 2**63 - 1


def writable(text: str) -> bool:
    """Return True for a text that can be written: half a surrogate pair cannot."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def shown(value: object) -> str:
    """Return a value that a file holds for a message, short and printable."""
    if isinstance(value, str) and len(value) <= 60 and value.isprintable() and writable(value):
        return repr(value)
    try:
        return ascii(value) if isinstance(value, float) else ascii(reprlib.repr(value))[1:-1]
    except ValueError:  # a number of thousands of digits
        return f"a {type(value).__name__} of thousands of digits"


def _wrong_type(item: Field[Any], value: object) -> str | None:
    """Return what is wrong with the type of a setting, or with its choice; a whole number passes for a float."""
    kind, choices = str(item.type), item.metadata["choices"]
    if not isinstance(value, _KINDS[kind]) or isinstance(value, bool):
        return f"{item.name} is {shown(value)}, a {type(value).__name__}; it must be {kind}"
    if isinstance(value, int) and abs(value) > _GREATEST:
        return f"{item.name} is {shown(value)}; it must be below 2^63"
    if isinstance(value, str) and not writable(value):
        return f"{item.name} is {shown(value)}, which is no text that can be written"
    if choices and value not in choices:
        return f"{item.name} is {value!r}; it must be one of {', '.join(choices)}"
    return None


@dataclass(frozen=True)
class TrainConfig:
    """The settings that decide what a run computes.

    Each field's ``metadata`` holds its unit and one sentence; the options of ``slideduck train`` are
    made from them, so that a setting is described in one place.

    Raises
    ------
    ConfigError
        Naming the setting, its value and what it may be.
    """

    model: str = _setting(
        "resnet18",
        "name",
        f"{', '.join((*MODELS, *BUILT_IN))}; hf:, timm: or monai: and a name or folder; a pathology encoder "
        f"({', '.join(ENCODERS)}); or module:function, called with the number of outputs.",
    )
    weights: str | None = _setting(None, "path", "File or folder of weights, or run, to start from.")
    normalise: str = _setting(
        "auto",
        "way",
        "Mean and deviation of the input: the training tiles' or the model's; auto is the model's if pretrained.",
        choices=("auto", "tiles", "model"),
    )
    input_px: int = _setting(0, "pixels", "Side that tiles are resized to; 0 is as they are, or as an encoder needs.")
    train_layers: str = _setting("all", "layers", "What trains: all, head (a linear probe), or the last N blocks.")
    layer_decay: float = _setting(1.0, "factor", "Each block learns by this factor slower than the one after it.")
    head_lr: float = _setting(0.0, "rate", "Highest learning rate of the head; 0 is as the others.")
    dropout: float = _setting(0.0, "share", "Features dropped in training, in models that know it; 0 is as built.")
    drop_path: float = _setting(0.0, "share", "Blocks dropped in training, in models that know it; 0 is as built.")
    task: str = _setting(
        "classification",
        "task",
        "What is learnt: one class, several labels, or numbers.",
        choices=("classification", "multi-label", "regression"),
    )
    target: str = _setting(
        "label",
        "target",
        "label is the tile's, soft or not; value its number; patient:COLUMN the value of its slide in the patients' "
        "table (weak supervision); "
        "several labels are one column such as 'a;b' or columns of 0 and 1: patient:a,b.",
    )
    loss: str = _setting(
        "auto",
        "loss",
        "auto is cross-entropy, of each label for several, and squared error for numbers.",
        choices=("auto", "focal", "huber"),
    )
    focal_gamma: float = _setting(2.0, "exponent", "How little the focal loss weighs tiles that are right already.")
    label_smoothing: float = _setting(0.0, "share", "Part of each target that is spread over all classes.")
    epochs: int = _setting(10, "epochs", "How often the training tiles are gone through.")
    batch_size_per_rank: int = _setting(64, "tiles", "Tiles in a step of one process.")
    lr: float = _setting(1e-3, "rate", "Highest learning rate, at the end of the warm-up.")
    warmup_epochs: float = _setting(0.5, "epochs", "Linear warm-up before the cosine decay.")
    weight_decay: float = _setting(0.01, "rate", "AdamW's decay of weights; not of norms and biases.")
    grad_clip: float = _setting(1.0, "norm", "Longest gradient that is let through; 0 does not clip.")
    balance: str = _setting(
        "loss", "way", "loss weighs each tile by the rarity of its class.", choices=("none", "loss")
    )
    augment: str = _setting(
        "d4",
        "preset or list",
        f"{', '.join(PRESETS)}, or a list such as d4,crop:0.8,stain:0.1,colour:0.1,blur:0.1,jpeg:0.2; "
        "d4 flips and turns each tile into one of its eight positions.",
    )
    precision: str = _setting(
        "auto", "type", "auto is bf16 where the device has it, else fp32.", choices=("auto", "fp32", "bf16")
    )
    seed: int = _setting(0, "number", "Seed of the weights, the order of tiles and their augmentation.")
    train_split: str = _setting("train", "split", "Split whose tiles train.")
    val_split: str = _setting("val", "split", "Split whose tiles validate.")
    fold: int | None = _setting(None, "fold", "This fold validates and all others train, whatever the split.")
    where: str | None = _setting(
        None, "sql", "Only tiles that meet this condition on the side-car's columns, such as \"site != 'A'\"."
    )
    train_where: str | None = _setting(None, "sql", "Tiles that meet this train, whatever the split.")
    val_where: str | None = _setting(None, "sql", "Tiles that meet this validate, whatever the split.")
    sample: str = _setting(
        "natural", "columns", "natural takes each tile once an epoch; columns such as label or slide,label balance it."
    )
    replacement: str = _setting(
        "no", "way", "yes draws tiles by weight, some of them several times an epoch.", choices=("no", "yes")
    )
    epoch_tiles: int | None = _setting(
        None, "tiles", "Training tiles of an epoch, rounded down to whole batches; others have their turn later."
    )
    clip: int | None = _setting(None, "tiles", "At most so many training tiles of a slide, chosen by the seed.")
    # How the steps are made, when the run ends, and what it keeps on the way.
    schedule: str = _setting(
        "cosine",
        "way",
        "How the learning rate goes on after the warm-up; onecycle has a rise of its own.",
        choices=("cosine", "onecycle", "plateau", "constant"),
    )
    plateau_patience: int = _setting(2, "epochs", "Epochs without a better --stop-metric that a plateau waits for.")
    plateau_factor: float = _setting(0.1, "part", "What a plateau then multiplies the learning rate with.")
    accumulate: int = _setting(1, "batches", "Batches that each process adds up to one step.")
    ema_decay: float = _setting(
        0.0, "part", "Part of the averaged weights that stays at each step, such as 0.999; 0 does not average."
    )
    compile: str = _setting(
        "off", "way", "Whether torch compiles the network; auto does on a GPU.", choices=("off", "auto", "on")
    )
    best_metric: str = _setting(
        "auto", "metric", "Metric of metrics.jsonl that chooses best.pt; auto is balanced accuracy, then the loss."
    )
    best_direction: str = _setting(
        "auto", "way", "Whether less of it is better; auto tells by its name.", choices=("auto", "min", "max")
    )
    stop_metric: str = _setting("val/loss", "metric", "Metric that early stopping and a plateau look at.")
    stop_direction: str = _setting(
        "auto", "way", "Whether less of it is better; auto tells by its name.", choices=("auto", "min", "max")
    )
    stop_patience: int = _setting(
        0, "epochs", "Epochs without a better --stop-metric after which the run ends; 0 goes on."
    )
    stop_min_delta: float = _setting(0.0, "difference", "By how much an epoch must be better to count as better.")
    checkpoint_steps: int = _setting(0, "steps", "Steps between checkpoints within an epoch; 0 goes by time alone.")
    checkpoint_minutes: float = _setting(
        10.0, "minutes", "Minutes between checkpoints within an epoch; 0 goes by steps alone."
    )
    shard: str = _setting(
        "none",
        "way",
        "fsdp cuts weights and optimizer across processes: models that fit no GPU.",
        choices=("none", "fsdp"),
    )
    unused_parameters: str = _setting(
        "refuse",
        "way",
        "What to do where weights that train have no part in the output; allow makes several processes slower.",
        choices=("refuse", "allow"),
    )
    log_steps: int = _setting(50, "steps", "Steps between the lines of steps.jsonl.")
    track: str = _setting(
        "tensorboard", "names", f"Where the run can be watched: none, or {', '.join(TRACKERS)}, several by comma."
    )

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        for item in fields(self):
            wrong = _wrong_type(item, getattr(self, item.name))
            if wrong:
                raise ConfigError(wrong)
        self._check_model()
        parse_recipe(self.augment)
        self._check_shard()
        tracker_names(self.track)
        self._check_objective()
        self._check_range("epochs", 1)
        self._check_range("batch_size_per_rank", 1)
        self._check_range("lr", 0, open_below=True)
        self._check_range("warmup_epochs", 0)
        self._check_range("weight_decay", 0)
        self._check_range("grad_clip", 0)
        self._check_range("seed", 0, 2**63 - 1)
        for name in ("plateau_patience", "stop_patience", "stop_min_delta", "checkpoint_steps", "checkpoint_minutes"):
            self._check_range(name, 0)
        self._check_range("accumulate", 1)
        self._check_range("log_steps", 1)
        for name, least in (("plateau_factor", 0.0), ("ema_decay", None)):
            value = getattr(self, name)
            if not (0.0 <= value < 1.0 and value != least):
                bound = "0 or more" if least is None else "above 0"
                raise ConfigError(f"{name} is {value!r}; it must be {bound}, and below 1")
        if self.warmup_epochs >= self.epochs:
            raise ConfigError(f"warmup_epochs is {self.warmup_epochs:g}; it must be less than epochs, {self.epochs}")
        for name in ("epoch_tiles", "clip"):
            if getattr(self, name) is not None:
                self._check_range(name, 1)
        columns = self.sample.split(",")
        if self.sample != "natural" and (set(columns) - set(SAMPLE_COLUMNS) or len(set(columns)) < len(columns)):
            raise ConfigError(
                f"sample is {self.sample!r}; it must be natural, or one or more of {', '.join(SAMPLE_COLUMNS)}, "
                "such as label or slide,label"
            )
        if self.fold is not None:
            self._check_range("fold", 0)
            for name in ("train_where", "val_where"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"fold and {name} are both given; a fold says which tiles train and validate")
        elif self.train_split == self.val_split and self.train_where is None and self.val_where is None:
            raise ConfigError(f"train_split and val_split are both {self.train_split!r}; they must be different splits")

    def _check_model(self) -> None:
        """Refuse impossible models, and impossible choices of which layers train."""
        wrong = check_model(self.model)
        if wrong:
            raise ConfigError(f"model is {self.model!r}; {wrong}")
        if self.train_layers not in ("all", "head") and not self.train_layers.isdecimal():
            raise ConfigError(f"train_layers is {self.train_layers!r}; it must be all, head, or a number of blocks")
        if self.weights == "":
            raise ConfigError("weights is ''; it must be a path, or not given")
        self._check_range("input_px", 0)
        self._check_range("layer_decay", 0, 1, open_below=True)
        self._check_range("head_lr", 0)
        self._check_range("dropout", 0, 0.99)
        self._check_range("drop_path", 0, 0.99)

    def _check_shard(self) -> None:
        """Refuse settings that a sharded network does not support."""
        for name, off in (("ema_decay", 0), ("compile", "off")):
            value = getattr(self, name)
            if self.shard == "fsdp" and value != off:
                raise ConfigError(f"shard is 'fsdp' and {name} is {value!r}; with a sharded network it must be {off!r}")

    def _check_objective(self) -> None:
        """Refuse targets and losses that do not suit the task."""
        kind, colon, columns = self.target.partition(":")
        names = columns.split(",")
        if self.target not in ("label", "value") and not (kind == "patient" and colon and all(names)):
            raise ConfigError(
                f"target is {self.target!r}; it must be label, value, or patient:COLUMN, such as patient:stage"
            )
        if self.target == "value" and self.task != "regression":
            raise ConfigError(
                f"target is 'value', numbers of tiles, and task is {self.task!r}; give `task='regression'`"
            )
        if len(names) > 1 and (self.task == "classification" or len(set(names)) < len(names)):
            what = "classification takes one column" if self.task == "classification" else "it names a column twice"
            raise ConfigError(f"target is {self.target!r}; {what}")
        if self.task != "classification" and {"label", "class"} & set(self.sample.split(",")):
            raise ConfigError(f"sample is {self.sample!r}, but task is {self.task!r}; only classes can be balanced")
        if self.loss == "focal" and self.task == "regression":
            raise ConfigError("loss is 'focal', but task is 'regression'; it must be auto or huber")
        if self.loss == "huber" and self.task != "regression":
            raise ConfigError(f"loss is 'huber', but task is {self.task!r}; it must be auto or focal")
        self._check_range("focal_gamma", 0)
        self._check_range("label_smoothing", 0, 0.99)
        if self.label_smoothing and self.task == "regression":
            raise ConfigError(f"label_smoothing is {self.label_smoothing:g}, but task is 'regression'; leave it at 0")

    def _check_range(self, name: str, least: float, greatest: float = math.inf, *, open_below: bool = False) -> None:
        """Raise unless the value is finite and from `least` to `greatest`."""
        value = getattr(self, name)
        below = value <= least if open_below else value < least
        if below or not value <= greatest or value == math.inf:
            bound = f"above {least:g}" if open_below else f"{least:g} or more"
            upper = "" if greatest == math.inf else f", at most {greatest}"
            raise ConfigError(f"{name} is {value!r}; it must be {bound}{upper}")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a plain dict, for JSON and for checkpoints."""
        return asdict(self)

    @classmethod
    def problems(cls, values: Mapping[Any, Any]) -> list[str]:
        """Return all that is wrong with settings that a file holds: names, types and values.

        Parameters
        ----------
        values : mapping
            What `from_dict` is to take.
        """
        known = {item.name: item for item in fields(cls)}
        problems = [f"no such setting: {shown(name)}" for name in values if name not in known]
        wrong = [_wrong_type(item, values[name]) for name, item in known.items() if name in values]
        problems += [problem for problem in wrong if problem]
        if not problems:
            try:
                cls(**values)
            except ConfigError as error:
                problems.append(str(error))
        return problems

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Return the settings of a dict that `to_dict` made.

        Raises
        ------
        ConfigError
            For a name that is no setting, and for impossible values.
        """
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"no such setting: {', '.join(unknown)}; the settings are {', '.join(sorted(known))}")
        return cls(**values)
