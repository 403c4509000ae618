"""The methods of a study that need the runner, as `slideduck.study.training` finds them by their entry points.

Nothing of the runner is imported until a function is called: it first says what is not installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slideduck.runner.settings.extra import require_train

if TYPE_CHECKING:
    from slideduck.runner.prediction.features import FeaturesReport
    from slideduck.runner.prediction.study import PredictReport
    from slideduck.runner.settings.train_config import TrainConfig
    from slideduck.runner.verbs.evaluation import Evaluation
    from slideduck.runner.verbs.run import Run
    from slideduck.show import Picture
    from slideduck.study import Study

__all__ = ["cross_validate", "evaluate", "features", "gradcam", "heatmap", "predict", "train"]


def train(
    study: Study,
    run: str | Path,
    *,
    model: Any = "resnet18",
    nproc: str | int = "auto",
    how: Any = None,
    betons: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Export the tiles, unless they are, and train on them; see `slideduck.study.training.Training.train`."""
    require_train("study.train")
    from slideduck.runner.training.train import train as train_run
    from slideduck.runner.verbs.run import Run

    # A name, or a network that is at hand: a function that makes it, or itself.
    network = {} if isinstance(model, str) else {"network": model}
    config, beton = _prepared(study, model if isinstance(model, str) else None, settings, betons, progress)
    train_run(beton, run, config, nproc=nproc, how=how, progress=progress, **network)
    return Run(run, study=study, **network)


def cross_validate(
    study: Study,
    run: str | Path,
    *,
    model: str = "resnet18",
    folds: bool = True,
    seeds: int | None = None,
    nproc: str | int = "auto",
    how: Any = None,
    betons: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Export the tiles, unless they are, and train a run for each fold; see `slideduck.runner.cross_validate`."""
    require_train("study.cross_validate")
    from slideduck.runner.training.crossval import cross_validate as validate

    config, beton = _prepared(study, model, settings, betons, progress)
    return validate(beton, run, config, folds=folds, seeds=seeds, nproc=nproc, how=how, progress=progress)


def evaluate(study: Study, run: Run | str | Path, **options: Any) -> Evaluation:
    """Evaluate a run on the study's labelled tiles; see `slideduck.runner.verbs.run.Run.evaluate`."""
    return _opened(study, run, "evaluate").evaluate(study, **options)


def predict(study: Study, run: Run | str | Path, **options: Any) -> PredictReport:
    """Predict the tiles of a grid into the study; see `slideduck.runner.predict`."""
    opened = _opened(study, run, "predict")
    from slideduck.runner.prediction.study import predict as predict_run

    return predict_run(opened.path, study, **opened.own(options))


def heatmap(study: Study, run: Run | str | Path, slide: str, out: str | Path | None, **options: Any) -> Picture:
    """Draw a slide with its probabilities; see `slideduck.runner.verbs.run.Run.heatmap`."""
    return _opened(study, run, "heatmap").heatmap(study, slide, out, **options)


def features(study: Study, run: Run | str | Path, out: str | Path | None, **options: Any) -> FeaturesReport:
    """Compute features of the study's tiles; see `slideduck.runner.features`."""
    return _opened(study, run, "features").features(study, out, **options)


def gradcam(
    study: Study, run: Run | str | Path, tile_ids: str | Sequence[str], out: str | Path | None, **options: Any
) -> Picture:
    """Draw tiles with their Grad-CAM; see `slideduck.runner.verbs.run.Run.gradcam`."""
    return _opened(study, run, "gradcam").gradcam(study, tile_ids, out, **options)


def _opened(study: Study, run: Run | str | Path, verb: str) -> Run:
    """Return a run that exists."""
    require_train(f"study.{verb}")
    from slideduck.runner.verbs.run import Run, open_run

    return run if isinstance(run, Run) else open_run(run, study=study)


def _prepared(
    study: Study, model: str | None, settings: dict[str, Any], betons: str | Path | None, progress: bool
) -> tuple[TrainConfig, Path]:
    """Return the settings of a training, all checked before any tile is read, and the beton of its tiles."""
    from slideduck.runner.settings.train_config import TrainConfig
    from slideduck.runner.verbs.tiles import exported, parted_settings

    training, export = parted_settings(settings)
    config = TrainConfig(**training) if model is None else TrainConfig(model=model, **training)
    return config, exported(study, export, betons=betons, progress=progress)
