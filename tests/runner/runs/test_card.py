"""The model card tells what a network is for, what it was trained on and how good it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt
from markdown_it.token import Token

from slideduck.runner.ranks.dist import Place
from slideduck.runner.runs import checkpoint
from slideduck.runner.runs.card import card_text, write_card
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tiles.open import open_data
from slideduck.runner.training.train import train
from tests.runner.betons import two_textures, write_beton

TINY = TrainConfig(model="networks:tiny", epochs=2, batch_size_per_rank=32, lr=1e-2)


def tokens(text: str) -> Iterator[Token]:
    """Yield all that a reader of Markdown finds in a card, HTML and tables too, behind what the hub reads."""
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text.split("\n---\n", 1)[1]):
        yield token
        yield from token.children or ()


def elements(text: str) -> list[tuple[str, str]]:
    """Return the elements of a card in their order, with their attributes."""
    plain = ("text", "text_special", "inline", "code_inline", "softbreak")
    return [(token.type, str(token.attrs)) for token in tokens(text) if token.type not in plain]


def section(text: str, name: str) -> str:
    return text.split(f"\n## {name}\n\n")[1].split("\n\n## ")[0]


def test_a_run_leaves_a_card_of_its_best_epoch(beton: Path, tmp_path: Path) -> None:
    run = tmp_path / "first run"
    train(beton, run, TINY, progress=False)
    text = (run / "README.md").read_text()
    state = checkpoint.load(run / "last.pt")
    best = state["history"][state["best"]["epoch"] - 1]
    assert text.startswith(
        "---\nlibrary_name: slideduck\npipeline_tag: image-classification\ntags:\n- digital-pathology\n"
        '- whole-slide-images\n- slideduck\nmodel_name: "first run"\nclasses:\n- "stripes"\n- "chequers"\n---\n\n'
        "# first run\n\nA network (`networks:tiny`) that tells 2 classes of tissue apart on tiles of whole-slide "
        "images: stripes and chequers. It was trained by slideduck 0.1.0; the weights are those of epoch "
        f"{best['epoch']}, the best of 2.\n"
    )
    assert section(text, "Data") == (
        f"- Beton: `tiles.beton`, 320 tiles, side-car {state['beton']['sidecar_sha256'][:12]}\n"
        "- Tiles: 32 px, 0.5 µm a pixel (grid `32px_16um`), JPEG of quality 90\n"
        "- Training: 240 tiles of 6 slides of 6 patients\n"
        "- Validation: 80 tiles of 2 slides of 2 patients\n\n"
        "| class | training tiles | slides | validation tiles | slides |\n| --- | --- | --- | --- | --- |\n"
        "| stripes | 120 | 6 | 46 | 2 |\n| chequers | 120 | 6 | 34 | 2 |"
    )
    metrics = section(text, "Metrics")
    accuracy, of_slides = best["val/balanced_accuracy"], best["val/slide/balanced_accuracy"]
    shown = "–" if of_slides is None else f"{of_slides:.4f}"
    assert f"| balanced_accuracy | {accuracy:.4f} | {shown} |" in metrics
    row = " | ".join(str(count) for count in best["val/confusion"][0])
    assert f"| stripes | {row} |" in metrics
    assert "![curves](curves.png)\n\n![augmented](augmented.png)" in metrics
    settings = section(text, "Settings")
    assert settings.startswith(
        "Trained by 1 process.\n\n| setting | value | default |\n| --- | --- | --- |\n"
        "| model | `networks:tiny` | `resnet18` |\n"
    )
    assert settings.count("| augment | `d4` |") == 1
    assert "slideduck predict 'first run' study.duckdb" in section(text, "Use")
    assert "6 slides of 6 patients" in section(text, "Limits")
    assert "not a medical device" in section(text, "Limits")
    assert f"| torch | {state['versions']['torch']} |" in section(text, "Versions")


def test_the_same_run_has_the_same_card(beton: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(beton, run, replace(TINY, epochs=1), progress=False)
    text = (run / "README.md").read_bytes()
    (run / "README.md").unlink()
    data = open_data(beton, TINY, Place(0, 1, torch.device("cpu"), 1))
    write_card(run, checkpoint.load(run / "best.pt"), data.sidecar, data.rows)
    assert (run / "README.md").read_bytes() == text
    # Nothing that differs between machines and hours.
    assert str(tmp_path) not in text.decode()
    assert not re.search(r"tiles_per_s|epoch_s", text.decode())


EVIL = "[x](javascript:alert(1)) ![y](http://e.vil/y) <script>alert(2)</script> `<b>` *s* ~~t~~ http://e.vil/ :x: "
EVIL += "\\|\x1b\u202e"


@pytest.mark.attack("HTML and terminals", "a link, a picture or HTML in a class of a model card")
@pytest.mark.attack("HTML and terminals", "a bar or a backquote in a class, which breaks a table of a model card")
def test_names_cannot_break_the_card(tmp_path: Path) -> None:
    path = write_beton(tmp_path / "a.beton", two_textures(64), classes=('a|b "c"', "ä: #1"))
    train(path, tmp_path / "run", replace(TINY, epochs=1, batch_size_per_rank=16), progress=False)
    text = (tmp_path / "run" / "README.md").read_text()
    # The same card with classes, a run and settings that hold markup has the same elements, and no others.
    data = open_data(path, TINY, Place(0, 1, torch.device("cpu"), 1))
    state = checkpoint.load(tmp_path / "run" / "best.pt")
    state["classes"] = [EVIL, "b"]
    state["config"] = {**state["config"], "model": EVIL, "where": EVIL}
    evil = card_text(EVIL, state, data.sidecar, data.rows)
    plain = {"classes": ["a", "b"], "config": {**state["config"], "model": "m", "where": "w"}}
    usual = card_text("run", {**state, **plain}, data.sidecar, data.rows)
    assert elements(evil) == elements(usual)
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", evil)
    shown = "".join(token.content for token in tokens(evil) if token.type in ("text", "code_inline", "text_special"))
    assert shown.count(EVIL[: EVIL.index("\\")].strip()) >= 5
    front = text.split("---\n")[1]
    names = re.findall(r'^- (".*")$', front, re.M)
    assert [json.loads(name) for name in names] == ['a|b "c"', "ä: #1"]
    assert '| a\\|b "c" | ' in section(text, "Data")
    # Every row of a table has as many cells as its header.
    for table in re.findall(r"(?:^\|.*\|\n?)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_metrics_have_their_intervals(beton: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(beton, run, replace(TINY, epochs=1), progress=False)
    note = "no confidence intervals: the tiles are of 2 patients, and resampling needs at least 5"
    assert section((run / "README.md").read_text(), "Metrics").count(f"There are {note}.") == 1
    data = open_data(beton, TINY, Place(0, 1, torch.device("cpu"), 1))
    state = checkpoint.load(run / "best.pt")
    intervals = {
        "ci95/accuracy": [0.25, 0.75],
        "ci95/patient/accuracy": None,
        "ci95/resamples": 2000,
        "ci95/patients": 9,
    }
    text = card_text("run", state, data.sidecar, data.rows, (), intervals)
    assert re.search(r"\| accuracy \| \d\.\d{4} \(0\.25–0\.75\) \| ", text)
    assert "In brackets are 95 % intervals, from 2,000 resamples of 9 patients." in text


def test_other_tasks_are_told_as_what_they_are(beton: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(beton, run, replace(TINY, epochs=1), progress=False)
    data = open_data(beton, TINY, Place(0, 1, torch.device("cpu"), 1))
    state = checkpoint.load(run / "best.pt")
    best = {"epoch": 1, "val/loss": 0.5, "val/r2/age": 0.25, "val/patient/r2/age": 0.5}
    state |= {"classes": ["age"], "config": {**state["config"], "task": "regression"}, "history": [best]}
    text = card_text("run", state, data.sidecar, data.rows)
    assert "`) that estimates age from tiles of whole-slide images. " in text
    assert section(text, "Metrics").endswith(
        "| metric | tiles | patients |\n| --- | --- | --- |\n| loss | 0.5000 | – |\n| r2/age | 0.2500 | 0.5000 |"
    )
    state |= {"classes": ["a", "b"], "config": {**state["config"], "task": "multi-label"}}
    text = card_text("run", state, data.sidecar, data.rows)
    assert "`) that tells which of 2 labels a tile of a whole-slide image has: a and b. " in text


def test_without_pictures_the_card_has_none(beton: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(beton, run, replace(TINY, epochs=1), progress=False)
    data = open_data(beton, TINY, Place(0, 1, torch.device("cpu"), 1))
    assert "![" not in card_text("run", checkpoint.load(run / "best.pt"), data.sidecar, data.rows)
