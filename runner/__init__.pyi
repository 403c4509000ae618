from slideduck.runner.maps.gradcam import gradcam
from slideduck.runner.maps.heatmap import heatmap
from slideduck.runner.prediction.evaluate import evaluate
from slideduck.runner.prediction.export_model import export_model
from slideduck.runner.prediction.features import features
from slideduck.runner.prediction.study import predict
from slideduck.runner.runs.trained import load_run
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tiles.dataset import TileDataset
from slideduck.runner.tiles.own_loop import loader
from slideduck.runner.training.crossval import cross_validate
from slideduck.runner.training.train import train
from slideduck.runner.verbs.run import Run, open_run

__all__ = [
    "Run",
    "TileDataset",
    "TrainConfig",
    "cross_validate",
    "evaluate",
    "export_model",
    "features",
    "gradcam",
    "heatmap",
    "load_run",
    "loader",
    "open_run",
    "predict",
    "train",
]
