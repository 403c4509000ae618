"""A run of somebody else names code: it is imported for the user's word alone. Weights and models' folders run none."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from slideduck.cli.group import cli
from slideduck.errors import ConfigError, RunError, SlideduckError
from slideduck.runner import TrainConfig, evaluate, export_model, features, gradcam, heatmap, load_run, predict
from slideduck.runner.networks.build import build_model
from slideduck.runner.prediction.beton import predict_beton
from slideduck.runner.settings import trust

#: Makes a file beside it when it is imported, and builds the network that the run was trained with.
_PLANTED = """
from pathlib import Path

Path(__file__).with_name("it-ran").touch()
from networks import tiny as build
"""


@pytest.fixture
def foreign(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of somebody else, whose model is code that lies in the folder one stands in."""
    (tmp_path / "planted.py").write_text(_PLANTED)
    run = tmp_path / "run"
    run.mkdir()
    for name in ("best", "last"):
        state = torch.load(small_run / f"{name}.pt", weights_only=True)
        state["config"]["model"] = "planted:build"
        torch.save(state, run / f"{name}.pt")
    monkeypatch.chdir(tmp_path)
    return run


def _refusal(run: Path) -> str:
    return (
        f"{run / 'best.pt'}: its model is 'planted:build', code that the run does not hold and that would be "
        f"imported from {Path.cwd() / 'planted.py'}; a run may come from anyone: if you know that code, say so with "
        "`trust='planted:build'`"
    )


@pytest.mark.attack("pickles", "a run folder that names the code it wants imported")
def test_the_code_that_a_run_names_is_not_imported(foreign: Path, small_run: Path, tmp_path: Path) -> None:
    beton = small_run.parent / "tiles.beton"
    calls: dict[str, Any] = {
        "load_run": lambda **told: load_run(foreign, **told),
        "evaluate": lambda **told: evaluate(foreign, beton, out=tmp_path / "e.parquet", resamples=0, **told),
        "predict": lambda **told: predict_beton(foreign, beton, out=tmp_path / "p.parquet", **told),
        "features": lambda **told: features(foreign, beton, tmp_path / "f", **told),
        "gradcam": lambda **told: gradcam(foreign, beton, ["S0-16-16"], tmp_path / "g.png", **told),
        "export_model": lambda **told: export_model(foreign, tmp_path / "m.safetensors", **told),
    }
    for name, call in calls.items():
        with pytest.raises(RunError) as error:
            call()
        assert str(error.value) == _refusal(foreign), name
    assert not (tmp_path / "it-ran").exists()
    # Other names than this one say nothing of it.
    with pytest.raises(RunError) as error:
        load_run(foreign, trust=("planted:other", "mine:net"))
    assert str(error.value) == _refusal(foreign)
    with pytest.raises(ConfigError) as wrong:
        load_run(foreign, trust="yes")
    assert str(wrong.value) == "trust is 'yes'; give module:function, as the run names its model"
    assert not (tmp_path / "it-ran").exists()
    # The remedy, in every call.
    for call in calls.values():
        call(trust="planted:build")
    assert (tmp_path / "it-ran").exists()


def test_the_commands_say_the_option_and_take_it(foreign: Path, small_run: Path, tmp_path: Path) -> None:
    words = ["evaluate", str(foreign), str(small_run.parent / "tiles.beton"), "--out", str(tmp_path / "e.parquet")]
    result = CliRunner().invoke(cli, [*words, "--resamples", "0"])
    assert result.exit_code == 1
    said = _refusal(foreign).replace("`trust='planted:build'`", "--trust planted:build")
    assert result.stderr == f"error: {said}\n"
    remedy = shlex.split(said.rpartition("say so with ")[2])
    assert CliRunner().invoke(cli, [*words, "--resamples", "0", *remedy]).exit_code == 0


@pytest.mark.parametrize("command", ["predict", "features", "heatmap", "gradcam"])
def test_commands_over_studies_refuse_it_too(foreign: Path, tmp_path: Path, command: str) -> None:
    import slideduck

    with slideduck.open(tmp_path / "study.duckdb") as study:
        call: Any = {
            "predict": lambda: predict(foreign, study),
            "features": lambda: features(foreign, study),
            "heatmap": lambda: heatmap(foreign, study, "A", tmp_path / "h.png"),
            "gradcam": lambda: gradcam(foreign, study, ["A-1-1"], tmp_path / "g.png"),
        }[command]
        with pytest.raises(RunError) as error:
            call()
    assert str(error.value) == _refusal(foreign)
    assert not (tmp_path / "it-ran").exists()


def test_what_the_user_trained_in_this_process_is_known(small_run: Path) -> None:
    assert load_run(small_run).config.model == "networks:tiny"


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("os:system", "/os.py"),
        ("sys:exit", "Python itself"),
        ("nowhere.deep:build", "a module nowhere, which is not there now"),
    ],
)
def test_the_message_says_where_code_would_come_from(name: str, origin: str, tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        trust.require_trust(name, tmp_path, ())
    assert f"would be imported from {origin}" in str(error.value).replace(str(Path(json.__file__).parent.parent), "")


@pytest.mark.attack("pickles", "a model's name that is an expression, or leads out of its library")
@pytest.mark.parametrize(
    "name",
    [
        "monai:__import__('os').system('true')", "monai:torch.hub.load", "monai:__builtins__", "monai:__loader__",
        "hf:\x1b[2J", "x y:f", "a/../b:f", "os:system('true')", "m:f.g", "m:__import__('os')", "..m:f",
    ],
)  # fmt: skip
def test_names_of_models_reach_nothing_but_models(name: str) -> None:
    with pytest.raises(ConfigError):
        build_model(name, 2, 0)


class _Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.system, (f"touch {self.path}",)


def _hf_folder(folder: Path) -> Path:
    """Write a folder of transformers with a small network of random weights."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    ViTForImageClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.attack("pickles", "a model folder with Python code, by auto_map in its config.json")
@pytest.mark.parametrize("kind", ["vit", "a_kind_of_its_own"])
def test_a_folder_of_transformers_runs_no_code_of_its_own(tmp_path: Path, kind: str) -> None:
    folder = _hf_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    auto = ("AutoConfig", "AutoModel", "AutoModelForImageClassification")
    config |= {"model_type": kind, "auto_map": dict.fromkeys(auto, "planted.Planted")}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "planted.py").write_text(_PLANTED + "\nclass Planted: pass\n")
    if kind == "vit":
        assert isinstance(build_model(f"hf:{folder}", 2, 0), torch.nn.Module)
    else:
        with pytest.raises(ConfigError, match=r"config\.json cannot be used: "):
            build_model(f"hf:{folder}", 2, 0)
    assert not list(tmp_path.rglob("it-ran"))


@pytest.mark.attack("pickles", "a model folder that asks for a kernel from the hub to compute its attention")
def test_a_folder_that_asks_for_a_kernel_is_refused(tmp_path: Path) -> None:
    folder = _hf_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"_attn_implementation": "somebody/kernel"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="'somebody/kernel'"):
        build_model(f"hf:{folder}", 2, 0)


@pytest.mark.attack("pickles", "weights of torch whose pickle calls os.system")
@pytest.mark.parametrize("form", ["pt", "legacy", "bare", "run", "hf"])
def test_weights_that_call_something_are_refused(tmp_path: Path, form: str) -> None:
    trap, path = tmp_path / "trap", tmp_path / "w.pt"
    content = {"x": _Runs(trap), "w": torch.ones(2)}
    if form == "bare":
        import pickle

        path.write_bytes(pickle.dumps(content))
    elif form in ("run", "hf"):
        folder = _hf_folder(tmp_path / "model") if form == "hf" else tmp_path / "model"
        folder.mkdir(exist_ok=True)
        path = folder / ("pytorch_model.bin" if form == "hf" else "best.pt")
        torch.save(content, path)
        (folder / "model.safetensors").unlink(missing_ok=True)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "pt")
    given = path if form in ("pt", "legacy", "bare") else path.parent
    settings: dict[str, Any] = (
        {"model": f"hf:{given}"} if form == "hf" else {"model": "resnet18", "weights": str(given)}
    )
    from slideduck.runner.networks.build import build_network

    with pytest.raises(ConfigError) as error:
        build_network(TrainConfig(**settings), 2)
    assert str(error.value) == (
        f"weights: {path}: it holds more than tensors: reading it as it is would call posix.system; if you trust who "
        "made it, save its tensors alone where its own code is installed, with these three lines (the last for the key "
        "under which it has them), and give weights.pt:\n"
        "  import torch\n"
        f"  content = torch.load({str(path)!r}, map_location='cpu', weights_only=False)\n"
        "  torch.save(content.state_dict() if hasattr(content, 'state_dict') else content['state_dict'], 'weights.pt')"
    )
    assert not trap.exists()


def test_the_remedy_for_pickled_weights_gets_on(tmp_path: Path) -> None:
    from slideduck.runner.networks.build import build_network

    network = build_network(TrainConfig(), 2).network
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    told = build_network(TrainConfig(weights=str(tmp_path / "w.safetensors"), seed=1), 2).told
    assert told[0].endswith("of the backbone are taken, and the head")


def test_a_checkpoint_that_calls_something_is_refused(foreign: Path, tmp_path: Path) -> None:
    state = torch.load(foreign / "best.pt", weights_only=True)
    torch.save({**state, "x": _Runs(tmp_path / "trap")}, foreign / "best.pt")
    with pytest.raises(SlideduckError) as error:
        load_run(foreign)
    assert str(error.value) == (
        f"{foreign / 'best.pt'}: it holds more than tensors: reading it as it is would call posix.system; remove the "
        "run folder and train again, or get the file again"
    )
    assert not (tmp_path / "trap").exists()
