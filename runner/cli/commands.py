"""Where the commands were: what was installed before names them here. To be removed after ``pip install -e .``."""

from slideduck.runner.cli.demo import demo
from slideduck.runner.cli.train import train
from slideduck.runner.cli.use import evaluate, export_model, features, gradcam, heatmap, predict

__all__ = ["demo", "evaluate", "export_model", "features", "gradcam", "heatmap", "predict", "train"]
