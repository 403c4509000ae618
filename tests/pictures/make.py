"""Makes the pictures of the README from the two real slides that the project is tested with.

Run it from the root: ``python tests/pictures/make.py ../shared/data``; it takes about two minutes on two cores. What
is drawn is the slide that the network was trained on: how pictures look, not how well anything was learnt.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

import slideduck as sd
from slideduck.runner.maps.gradcam import gradcam
from slideduck.runner.maps.heatmap import heatmap
from slideduck.runner.prediction.study import predict
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.training.train import train

HERE = Path(__file__).parent
SLIDE = "CMU-1-Small-Region"
#: Longer side of a picture, pixels.
MOST_PX = 1100


def network(num_classes: int) -> nn.Module:
    """Return a small ResNet, quick on two cores, with dropout before its head."""
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1]}
    model: Any = ResNetForImageClassification(ResNetConfig(layer_type="basic", num_labels=num_classes, **sizes))
    model.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, num_classes))
    return model  # type: ignore[no-any-return]


def main(data: Path, folder: Path) -> None:
    """Train on the real slides, predict with overlap and dropout, and draw."""
    with sd.open(folder / "real.duckdb") as study:
        study.add_slides(sorted(data.glob("*.svs")), mpp=0.5)
        study.add_rois([data / f"{SLIDE}.csv", data / "TCGA-CR-7395-01A-01-TS1.geojson"])
        study.tile(64, tile_um=64)
        study.tile(64, tile_um=64, stride_div=2)
        study.label()
        study.split(val_fraction=0.5)
        # Tiles of the overlapping grid: there are few that do not overlap.
        study.export(folder / "real.beton", grid="64px_64um_stride2")
        train(folder / "real.beton", folder / "real", TrainConfig(model="make:network", epochs=12, lr=3e-3), nproc=1)
        predict(folder / "real", study, grid="64px_64um_stride2", slides=[SLIDE], mc_dropout=8, checkpoint="last")
        overlapping: dict[str, Any] = {"grid": "64px_64um_stride2", "window": "peaked"}
        heatmap(folder / "real", study, SLIDE, folder / "heatmap.png", checkpoint="last", **overlapping)
        which = "SELECT tile_id FROM labels WHERE label = $label AND coverage = 1 AND grid = '64px_64um' ORDER BY ALL"
        names = [study.sql(which, {"label": label}).fetchall()[-1][0] for label in ("epidermis", "dermis", "keratin")]
        gradcam(folder / "real", study, names, folder / "gradcam.png", grid="64px_64um", checkpoint="last")
    for name in ("heatmap", "gradcam"):
        shrink(folder / f"{name}.png", HERE / f"{name}.jpg")


def shrink(path: Path, small: Path) -> None:
    """Write a picture small enough for a repository: fewer pixels, as JPEG."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((MOST_PX, MOST_PX), Image.Resampling.LANCZOS)
    picture.save(small, quality=85, subsampling=0, optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(sys.argv[1]), Path(place))
