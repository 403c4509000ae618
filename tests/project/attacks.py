"""The attacks that tests refuse, as SECURITY.md lists them: ``python -m tests.project.attacks`` writes the table.

A test is marked ``@pytest.mark.attack(KIND, WHAT)``; cases of a parametrised one by ``pytest.param(..., marks=...)``.
The marks are read from the files, so that no test has to be imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BEGIN", "END", "KINDS", "PAGE", "Attack", "attacks", "tables", "written"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "SECURITY.md"
BEGIN = "<!-- attacks: python -m tests.project.attacks -->"
END = "<!-- end of the attacks -->"

#: In the order of the table.
KINDS = (
    "SQL",
    "conditions",
    "names",
    "archives",
    "pickles",
    "XML and JSON",
    "HTML and terminals",
    "paths",
    "links",
    "races",
    "bytes",
    "bombs",
)


#: What Markdown would not show as it is.
_MARKUP = re.compile(r"[\\\[\]<>|*_`]")


@dataclass(frozen=True)
class Attack:
    """An attack: of which kind, in which words, and the test that shows it refused."""

    kind: str
    what: str
    path: str
    test: str


def attacks() -> list[Attack]:
    """Return the attacks of all tests, by kind, file and place."""
    found = [attack for path in sorted((ROOT / "tests").rglob("test_*.py")) for attack in _marked(path)]
    unknown = sorted({attack.kind for attack in found} - set(KINDS))
    if unknown:
        raise ValueError(f"unknown kinds of attacks: {', '.join(unknown)}; the kinds are {', '.join(KINDS)}")
    return sorted(found, key=lambda attack: KINDS.index(attack.kind))


def tables() -> str:
    """Return the table of all attacks, as Markdown."""
    lines = ["| | kind | attack | shown refused by |", "| ---: | --- | --- | --- |"]
    for number, attack in enumerate(attacks(), start=1):
        link = f"[`{attack.test}`]({attack.path})"
        what = _MARKUP.sub(lambda sign: f"\\{sign[0]}", attack.what)
        lines.append(f"| {number} | {attack.kind} | {what} | {link} |")
    return "\n".join(lines)


def written(page: str) -> str:
    """Return the page with the table as it is now."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{tables()}\n\n{END}{tail}"


def _marked(path: Path) -> Iterator[Attack]:
    """Yield the attacks of a file; a mark in a list that a test is parametrised by belongs to that test."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    name = path.relative_to(ROOT).as_posix()
    lists = {
        target.id: list(_marks(node.value))
        for node in module.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for decorator in node.decorator_list:
                for kind, what in _marks(decorator):
                    yield Attack(kind, what, name, node.name)
                for used in ast.walk(decorator):
                    if isinstance(used, ast.Name):
                        yield from (Attack(kind, what, name, node.name) for kind, what in lists.pop(used.id, ()))


def _marks(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the two words of each ``pytest.mark.attack(...)`` within an expression, in the order of the file."""
    calls = [
        call
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "attack"
    ]
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        kind, what = (ast.literal_eval(argument) for argument in call.args)
        yield str(kind), str(what)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
