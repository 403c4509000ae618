"""Whose code a run may run: a model of ``module:function`` is imported for the user's word alone.

A run folder travels, and names its model. A name of a library's network leads to that library; ``module:function``
leads to whatever lies in the folder one stands in. So it is imported where the user said that very name: in this call,
or when they trained it in this process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from slideduck.errors import ConfigError, RunError
from slideduck.runner.settings.modelnames import is_own_model

__all__ = ["require_trust", "say", "trusted_names"]

#: Models that the user trained in this process: their functions have been called already.
_said: set[str] = set()


def say(model: str) -> None:
    """Keep that the user named a model in this process."""
    if is_own_model(model):
        _said.add(model)


def trusted_names(trust: str | Sequence[str]) -> frozenset[str]:
    """Return the names that a caller trusts.

    Raises
    ------
    ConfigError
        If one is not ``module:function``.
    """
    names = (trust,) if isinstance(trust, str) else tuple(trust)
    for name in names:
        if not is_own_model(name):
            raise ConfigError(f"trust is {name!r}; give module:function, as the run names its model")
    return frozenset(names)


def require_trust(model: str, run: Path, trust: str | Sequence[str]) -> None:
    """Raise if a run's model is code that the user has not named; nothing is imported.

    Parameters
    ----------
    model : str
        As the run's settings name it.
    run : Path
        Where that stands, for the message.
    trust : str or sequence of str
        What the user said in this call.

    Raises
    ------
    RunError
        With where the code would come from, and how to say that it is trusted.
    ConfigError
        If a trusted name is none.
    """
    trusted = trusted_names(trust)
    if not is_own_model(model) or model in trusted | _said:
        return
    raise RunError(
        f"{run}: its model is {model!r}, code that the run does not hold and that would be imported from "
        f"{_origin(model.partition(':')[0])}; a run may come from anyone: if you know that code, say so with "
        f"`trust='{model}'`"
    )


def _origin(module: str) -> str:
    """Return where a module would be imported from; only its first package is looked for."""
    first = module.partition(".")[0]
    if first in sys.builtin_module_names:
        return "Python itself"
    spec = PathFinder.find_spec(first, [*sys.path, str(Path.cwd())])
    if spec is None:
        return f"a module {first}, which is not there now"
    folders = list(spec.submodule_search_locations or ())
    return str(spec.origin or (folders[0] if folders else first))
