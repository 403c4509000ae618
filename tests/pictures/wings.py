"""Draws the wings and what may import what, from the contracts in pyproject.toml, into wings.svg beside this file.

    python tests/pictures/wings.py

A wing is a box with its name and the first line of its docstring, as much of it as there is room for.
"""

from __future__ import annotations

import ast
import math
import re
import tomllib
from html import escape
from pathlib import Path

__all__ = ["OUT", "drawn"]

ROOT = Path(__file__).resolve().parents[2]
OUT = Path(__file__).with_suffix(".svg")

#: Folder, import name, left edge, width and colours (ground, edges) of each stack.
STACKS = (
    ("engine", "slideduck", 12, 466, "#e9f1fb", "#3b6ea8"),
    ("runner", "slideduck.runner", 568, 380, "#fdf1e3", "#b06a1c"),
)
WIDTH = 960
INSET, GAP = 14, 10  # of boxes in a stack, and between neighbours, pixels
ARROW = 17  # between layers, pixels
NAME_PX, TEXT_PX, LINE_PX = 14, 12, 15
MOST_LINES = 4
MOST_BESIDE = 3
TOP = 48.0  # of the first box, pixels

TEXT, PALE = "#1b1f24", "#57606a"


def drawn() -> str:
    """Return the picture as SVG."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = {contract["containers"][0]: contract["layers"] for contract in contracts if contract["type"] == "layers"}
    body: list[str] = []
    bottoms = {}
    for folder, package, left, width, ground, edge in STACKS:
        boxes: list[str] = []
        y = TOP
        for i, layer in enumerate(layers[package]):
            if i:
                boxes.append(arrow(left + width / 2, y - ARROW + 2, left + width / 2, y - 2, edge))
            wings = [told(ROOT / folder, name) for name in re.findall(r"\w+", layer)]
            y = draw_layer(boxes, wings, left + INSET, y, width - 2 * INSET, edge) + ARROW
        bottoms[folder] = y
        body += [panel(left, 12, width, y - 12, ground), title(left + INSET, folder, package, edge), *boxes]
    height = draw_sql(body, bottoms["engine"]) + 12
    body += [*between(bottoms["runner"] / 2), *legend(bottoms["runner"] + 34)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" '
            f'height="{height:g}" font-family="Helvetica, Arial, Liberation Sans, sans-serif" font-size="{TEXT_PX}" '
            f'fill="{TEXT}">',
            "<title>The wings of slideduck, and what may import what</title>",
            f'<rect width="{WIDTH}" height="{height:g}" rx="8" fill="#ffffff"/>',
            *body,
            "</svg>\n",
        ]
    )


def told(folder: Path, name: str) -> tuple[str, str]:
    """Return the name of a wing, or of a module that stands alone, and the first line of its docstring."""
    wing = folder / name / "__init__.py"
    path = wing if wing.is_file() else folder / f"{name}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return (name if path is wing else path.name), text.splitlines()[0].replace("`", "")


def draw_layer(
    out: list[str],
    wings: list[tuple[str, str]],
    left: float,
    top: float,
    width: float,
    edge: str,
) -> float:
    """Draw the wings of a layer side by side, in several rows if there are many; return where the layer ends."""
    rows = math.ceil(len(wings) / MOST_BESIDE)
    size = math.ceil(len(wings) / rows)
    for first in range(0, len(wings), size):
        top = draw_row(out, wings[first : first + size], left, top, width, edge) + GAP
    return top - GAP


def draw_row(out: list[str], wings: list[tuple[str, str]], left: float, top: float, width: float, edge: str) -> float:
    """Draw some wings side by side; return where the row ends, pixels from the top."""
    side = (width - GAP * (len(wings) - 1)) / len(wings)
    lines = [fitted(text, side - 14) for _, text in wings]
    height = 25 + LINE_PX * max(map(len, lines))
    for i, ((name, _), said) in enumerate(zip(wings, lines, strict=True)):
        x = left + i * (side + GAP)
        out.append(
            f'<rect x="{x:g}" y="{top:g}" width="{side:g}" height="{height:g}" rx="5" fill="#ffffff" stroke="{edge}"/>'
        )
        out.append(label(x + side / 2, top + 17, name, size=NAME_PX, bold=True))
        out += [label(x + side / 2, top + 33 + LINE_PX * j, line) for j, line in enumerate(said)]
    return top + height


def fitted(text: str, width: float) -> list[str]:
    """Return a sentence as lines of some pixels at most: all of it, or what stands before a colon or a comma."""
    ends = [len(text), *(found.start() for found in reversed(list(re.finditer(r"[:;,]", text))))]
    for end in ends:
        lines = wrapped(text[:end].rstrip("."), width)
        if len(lines) <= MOST_LINES and all(text_width(line) <= width for line in lines):
            # As narrow as it goes in so many lines: none is left with a single word.
            narrow = (wrapped(text[:end].rstrip("."), width - less) for less in range(0, int(width), 4))
            return min(
                (found for found in narrow if len(found) == len(lines)), key=lambda found: max(map(text_width, found))
            )
    raise ValueError(f"{text!r} does not fit into {width:.0f} pixels; begin the docstring with fewer words")


def wrapped(text: str, width: float) -> list[str]:
    """Return lines of some pixels at most, unless a single word is longer."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def text_width(text: str) -> float:
    """Return about how wide a text is in Helvetica, pixels; rather too wide, for browsers that have another font."""
    em = sum(0.32 if c in "iljtfr.,:;'()| I" else 0.9 if c in "mwMW" else 0.72 if c.isupper() else 0.58 for c in text)
    return em * TEXT_PX


def between(middle: float) -> list[str]:
    """Return the one arrow from the runner to the engine, and what is said of it."""
    (_, _, left, width, _, _), (_, _, right, _, _, edge) = STACKS
    x = (left + width + right) / 2
    above, below = ("may import", "every wing"), ("never the", "other way")
    return [
        *(label(x, middle - 12 - LINE_PX * (len(above) - 1 - i), line) for i, line in enumerate(above)),
        arrow(right - 2, middle, left + width + 3, middle, edge, stroke=2.5),
        *(label(x, middle + 22 + LINE_PX * i, line, bold=True) for i, line in enumerate(below)),
    ]


def draw_sql(out: list[str], top: float) -> float:
    """Draw the folder of SQL under the engine, whose wing `store` reads it; return where it ends."""
    _, _, left, width, _, edge = STACKS[0]
    _, text = told(ROOT, "sql")
    y = top + ARROW
    out += [
        arrow(left + width / 2, top + 2, left + width / 2, y - 2, edge),
        panel(left, y, width, 58, "#eef0f2"),
        label(left + width / 2, y + 22, "sql/", size=NAME_PX, bold=True),
        *(label(left + width / 2, y + 39 + LINE_PX * j, line) for j, line in enumerate(fitted(text, width - 20))),
    ]
    return y + 58


def legend(top: float) -> list[str]:
    """Return how the picture is read."""
    lines = (
        "A wing may import what stands below it; neither its",
        "neighbours nor what is above: make check proves it.",
        "Of the runner, cli alone imports the engine's cli.",
        "The files of sql/ are read by the wing store.",
    )
    left = STACKS[1][2] + INSET
    return [f'<text x="{left}" y="{top + 18 * i:g}" fill="{PALE}">{line}</text>' for i, line in enumerate(lines)]


def panel(left: float, top: float, width: float, height: float, ground: str) -> str:
    return f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="8" fill="{ground}"/>'


def title(x: float, folder: str, package: str, edge: str) -> str:
    return (
        f'<text x="{x:g}" y="36" font-size="16" font-weight="bold" fill="{edge}">{folder}/</text>'
        f'<text x="{x + 78:g}" y="36" fill="{PALE}">imported as {package}</text>'
    )


def label(x: float, y: float, text: str, *, size: int = TEXT_PX, bold: bool = False) -> str:
    """Return a line of text around a point of its base line."""
    weight = f' font-size="{size}" font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle"{weight}>{escape(text)}</text>'


def arrow(
    x: float, y: float, to_x: float, to_y: float, colour: str, *, stroke: float = 1.5, dashed: bool = False
) -> str:
    """Return an arrow down or to the left."""
    tip = 3 + 1.5 * stroke
    if x == to_x:
        line, head = f"M{x:g} {y:g}V{to_y - tip:g}", f"M{x:g} {to_y:g}l{-tip * 0.7:g} {-tip:g}h{tip * 1.4:g}z"
    else:
        line, head = f"M{x:g} {y:g}H{to_x + tip:g}", f"M{to_x:g} {y:g}l{tip:g} {-tip * 0.7:g}v{tip * 1.4:g}z"
    dash = ' stroke-dasharray="3 2"' if dashed else ""
    return (
        f'<path d="{line}" fill="none" stroke="{colour}" stroke-width="{stroke:g}"{dash}/>'
        f'<path d="{head}" fill="{colour}"/>'
    )


if __name__ == "__main__":
    OUT.write_text(drawn(), encoding="utf-8")
