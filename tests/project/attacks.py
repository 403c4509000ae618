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
    values = _values(module)
    lists = {target: list(_marks(value, values)) for target, value in values.items()}
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for decorator in node.decorator_list:
                for kind, what in _marks(decorator, values):
                    yield Attack(kind, what, name, node.name)
                for used in ast.walk(decorator):
                    if isinstance(used, ast.Name):
                        yield from (Attack(kind, what, name, node.name) for kind, what in lists.pop(used.id, ()))


def _values(module: ast.Module) -> dict[str, ast.expr]:
    """Return what each name of a module is set to."""
    values: dict[str, ast.expr] = {}
    for node in module.body:
        if isinstance(node, ast.Assign):
            values |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            values[node.target.id] = node.value
    return values


def _marks(node: ast.AST, values: dict[str, ast.expr]) -> Iterator[tuple[str, str]]:
    """Yield the two words of each ``pytest.mark.attack(...)`` within an expression, in the order of the file.

    One in a comprehension over a dictionary or a list of the module is one for each of its entries.
    """
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call) and _is_attack(call.func, values)]
    loops = [loop for each in ast.walk(node) for loop in getattr(each, "generators", ())]
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        kind, what = call.args
        loop = next((loop for loop in loops if not isinstance(what, ast.Constant) and _uses(what, loop.target)), None)
        for value in _entries(loop.iter, values) if loop else [""]:
            yield _text(kind, value), _text(what, value)


def _is_attack(node: ast.AST, values: dict[str, ast.expr]) -> bool:
    """Return whether this is ``pytest.mark.attack``, or what a module calls it for short."""
    if isinstance(node, ast.Name) and node.id in values:
        return _is_attack(values[node.id], {})
    return isinstance(node, ast.Attribute) and node.attr == "attack"


def _uses(node: ast.AST, target: ast.AST) -> bool:
    return isinstance(target, ast.Name) and any(
        isinstance(each, ast.Name) and each.id == target.id for each in ast.walk(node)
    )


def _entries(node: ast.AST, values: dict[str, ast.expr]) -> list[str]:
    """Return the texts that a loop goes over; one, that says so, where they are not written in the file."""
    found = values.get(node.id) if isinstance(node, ast.Name) else node
    texts = found.keys if isinstance(found, ast.Dict) else found.elts if isinstance(found, ast.List | ast.Tuple) else []
    return [str(text.value) for text in texts if isinstance(text, ast.Constant)] or ["each kind"]


def _text(node: ast.AST, value: str) -> str:
    """Return a text; names in an f-string are the entry of the loop."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else value for part in parts)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
