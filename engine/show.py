r"""How what a method returns is shown: in a line or a few at a prompt, as a table in a notebook, as bars.

A report is a frozen dataclass that inherits `Shown`. Its numbers and short texts stand in the first line, and each
collection that holds anything in a line of its own, with its size and the first of it: so what was left out is seen.
Names come from files of others: what a terminal would obey is written out (``\x1b``), and HTML is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from slideduck.errors import ConfigError
from slideduck.files.write import explained, write_whole
from slideduck.palette import label_colours
from slideduck.words import printable, some

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "Shown", "bars", "html_table", "value_text"]

#: Names of a collection that are shown.
_MOST = 5
#: Characters of one text.
_LONGEST = 300
_FORMS = ("png", "pdf", "svg")


class Picture(type(Path())):  # type: ignore[misc]
    """The path of a file that was drawn; a notebook shows the picture, if it is a PNG or an SVG."""

    def _repr_png_(self) -> bytes | None:
        return self.read_bytes() if self.suffix.lower() == ".png" and self.is_file() else None

    def _repr_svg_(self) -> str | None:
        return self.read_text(encoding="utf-8") if self.suffix.lower() == ".svg" and self.is_file() else None


class Shown:
    """What a report inherits to be read by people.

    Attributes
    ----------
    plotted : tuple of str
        Name of the field that `plot` draws, a dict of numbers, and the name of what is counted.
    told : tuple of str
        What is shown, in its order; default every field.
    always : tuple of str
        What is shown even where it is empty, as the number that it then is.
    """

    plotted: ClassVar[tuple[str, str] | None] = None
    told: ClassVar[tuple[str, ...]] = ()
    always: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Give each class the text as its own, which a dataclass then leaves alone."""
        super().__init_subclass__()
        if "__repr__" not in vars(cls):
            cls.__repr__ = Shown.__repr__  # type: ignore[method-assign]

    def shown(self) -> Iterator[tuple[str, object]]:
        """Yield what is shown, by name: the fields, but for those that are empty or not given."""
        for name in self.told or [item.name for item in fields(self)]:  # type: ignore[arg-type]
            value = getattr(self, name)
            if value is None or (isinstance(value, (str, Sequence, Mapping)) and not value):
                if name not in self.always:
                    continue
                value = 0
            yield name.replace("_", " "), value

    def __repr__(self) -> str:
        first: list[str] = []
        below: list[str] = []
        for name, value in self.shown():
            text = f"{name} {value_text(value)}"
            (below if _is_collection(value) else first).append(text)
        head = f"{type(self).__name__}: {', '.join(first)}" if first else f"{type(self).__name__}:"
        return "\n  ".join([head, *below])

    def _repr_html_(self) -> str:
        return html_table(type(self).__name__, self.shown())

    def plot(self, out: str | Path | None = None) -> Figure | Picture:
        """Draw what there is to draw as bars.

        Parameters
        ----------
        out : path, optional
            A picture to write, ``.png``, ``.pdf`` or ``.svg``; default none.

        Returns
        -------
        matplotlib.figure.Figure or Picture
            The figure, which a notebook shows; or the path of the picture.

        Raises
        ------
        ConfigError
            If a report of this kind holds nothing to draw.
        """
        if self.plotted is None:
            raise ConfigError(f"a {type(self).__name__} has nothing to draw; print it, or read its fields")
        name, noun = self.plotted
        counts = {str(key or "no label"): float(number) for key, number in getattr(self, name).items()}
        return bars(counts, noun, out)


def _is_collection(value: object) -> bool:
    return (not isinstance(value, (str, Path)) and isinstance(value, (Sequence, Mapping))) or hasattr(value, "num_rows")


def value_text(value: object) -> str:
    """Return a value as one line says it: numbers with commas, collections with their size and first members."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if hasattr(value, "num_rows") and hasattr(value, "column_names"):
        return f"({value.num_rows:,}): a table of {', '.join(map(printable, value.column_names))}"
    if isinstance(value, Mapping):
        members = [f"{printable(str(key))} {value_text(one)}" for key, one in value.items()]
        return f"({len(members):,}): {some(members, _MOST)}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"({len(value):,}): {some([_short(str(one)) for one in value], _MOST)}"
    return _short(str(value))


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def html_table(title: str, rows: Iterator[tuple[str, object]]) -> str:
    """Return a small table of names and values as HTML; whatever they hold is text."""
    lines = "".join(
        f"<tr><th style='text-align:left'>{escape(printable(name))}</th>"
        f"<td style='text-align:left'>{escape(value_text(value))}</td></tr>"
        for name, value in rows
    )
    return f"<table><caption>{escape(printable(title))}</caption>{lines}</table>"


def bars(counts: Mapping[str, float], noun: str, out: str | Path | None = None) -> Figure | Picture:
    """Draw numbers by name as bars, in the colours that labels have in every picture.

    Parameters
    ----------
    counts : mapping of str to float
        Numbers by name, from the top.
    noun : str
        What is counted.
    out : path, optional
        A picture to write; default none.
    """
    from matplotlib.figure import Figure

    # Signs of mathematics in a name are text.
    names = [printable(name).replace("$", r"\$") for name in counts]
    figure = Figure(figsize=(6.5, 0.8 + 0.3 * max(1, len(names))), layout="constrained")
    axes = figure.subplots()
    colours = label_colours(counts)
    axes.barh(range(len(names)), list(counts.values()), color=[colours[name] for name in counts])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(noun)
    if out is None:
        return figure
    picture = Picture(out)
    form = picture.suffix.lower().removeprefix(".")
    if form not in _FORMS:
        raise ConfigError(f"{picture.name} ends in none of .{', .'.join(_FORMS)}; give it another name")
    with explained(picture, full="; free some, and draw it again"):
        write_whole(picture, lambda file: figure.savefig(file, format=form))
    return picture
