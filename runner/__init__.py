"""The runner: trains, evaluates and predicts from the betons that the engine exports.

>>> from slideduck.runner import TrainConfig, train
>>> train("tiles.beton", "runs/first", TrainConfig(epochs=20))  # doctest: +SKIP

What is public is imported when it is first used; `__init__.pyi` beside this says the same to type checkers.
"""

from __future__ import annotations

import os

from slideduck.lazy import lazy_names
from slideduck.runner.settings.extra import require_train

if __name__ != "slideduck.runner":  # the folder's name is not the package's name
    raise ImportError("import slideduck.runner, not runner (after: pip install -e .)")

# Before torch is imported. Its threads wait for each other by spinning, unless told otherwise; where other
# processes want the same cores, a step of ResNet-18 then took 3 to 10 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

#: The module of each public name.
_HOMES = {
    "Run": "slideduck.runner.verbs.run",
    "TileDataset": "slideduck.runner.tiles.dataset",
    "TrainConfig": "slideduck.runner.settings.train_config",
    "cross_validate": "slideduck.runner.training.crossval",
    "evaluate": "slideduck.runner.prediction.evaluate",
    "export_model": "slideduck.runner.prediction.export_model",
    "features": "slideduck.runner.prediction.features",
    "gradcam": "slideduck.runner.maps.gradcam",
    "heatmap": "slideduck.runner.maps.heatmap",
    "load_run": "slideduck.runner.runs.trained",
    "loader": "slideduck.runner.tiles.own_loop",
    "open_run": "slideduck.runner.verbs.run",
    "predict": "slideduck.runner.prediction.study",
    "train": "slideduck.runner.training.train",
}

#: Names of `slideduck` itself, too: see the entry points ``slideduck.names``.
_OF_SLIDEDUCK = ("TileDataset", "loader")


def _require(name: str) -> None:
    """Raise where the extra `train` is not installed and a name needs it."""
    if name != "TrainConfig":
        require_train(f"slideduck.{name}" if name in _OF_SLIDEDUCK else f"slideduck.runner.{name}")


__all__ = [*_HOMES]
__getattr__, __dir__ = lazy_names(__name__, _HOMES, _require)
