"""Which of a file's tensors are a network's: behind what names training programs and wrappers put before theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from slideduck.errors import ConfigError
from slideduck.runner.networks.published import Layout, layouts

__all__ = ["Found", "find", "flat", "under"]

#: What a name counts whose tensor has the network's shape; one of another shape counts 1.
_MATCH = 1000

#: The share of what the best place counts from which another place in the file fits as well.
_RIVAL = 0.5

#: The state of what trained a network has tensors of the same names and shapes, and no weights.
_NOT_WEIGHTS = ("optim", "lr_sched", "scheduler", "scaler", "amp", "callbacks", "hyper_parameters", "args")


@dataclass(frozen=True)
class Found:
    """The tensors of a network in a file.

    Attributes
    ----------
    prefix : str
        What stands before each of their names; empty, or with a point at its end.
    tensors : mapping
        By the names behind it.
    layout : Layout or None
        Whose names they have, where these are not the network's own.
    """

    prefix: str
    tensors: Mapping[str, torch.Tensor]
    layout: Layout | None = None


def flat(content: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of dictionaries in dictionaries by their keys, joined by points.

    What optimizers and schedulers keep is left out.
    """
    tensors: dict[str, torch.Tensor] = {}
    waiting, seen = [("", content)], set()
    while waiting:
        prefix, value = waiting.pop(0)
        # A pickle may hold a dictionary that holds itself.
        if not isinstance(value, Mapping) or id(value) in seen:
            continue
        seen.add(id(value))
        for key, inner in value.items():
            if torch.is_tensor(inner):
                tensors[f"{prefix}{key}"] = inner
            elif isinstance(key, str) and not key.lower().startswith(_NOT_WEIGHTS):
                waiting.append((f"{prefix}{key}.", inner))
    return tensors


def under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin so, by what follows."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def find(
    tensors: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], *, kind: str, base: str, source: str
) -> Found:
    """Find a network's tensors among those of a file.

    Parameters
    ----------
    tensors : mapping
        Those of the file, see `flat`.
    own : mapping
        Those of the network.
    kind : str
        ``model_type`` of a network of transformers, else empty.
    base : str
        What stands before the names of its backbone, such as ``"vit."``, and may lack in the file; or empty.
    source : str
        What the user named, for messages.

    Raises
    ------
    ConfigError
        If there are several that fit, and differ.
    """
    matches = _matches(tensors, own, base)
    candidates = [(n, Found(prefix, under(tensors, prefix))) for prefix, n in matches.items()]
    for layout, prefix in layouts(tensors, kind):
        named = under(tensors, prefix)
        candidates.append((_MATCH * sum(map(layout.has, named)), Found(prefix, named, layout)))
    if not candidates:
        return Found("", tensors)
    most = max(n for n, _ in candidates)
    # The first of the best: as they are, where that does as well.
    best = next(found for n, found in candidates if n == most)
    rivals = [found for n, found in candidates if n >= max(_RIVAL * most, _MATCH) and not _same(found, best)]
    if rivals:
        _refuse_several(source, [best, *rivals])
    return best


def _matches(tensors: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], base: str) -> Counter[str]:
    """Return for each prefix how many names behind it are the network's, of its shapes."""
    named = {name.removeprefix(base): value.shape for name, value in own.items() if base and name.startswith(base)}
    named |= {name: value.shape for name, value in own.items()}
    matches: Counter[str] = Counter()
    for name, tensor in tensors.items():
        for at in _starts(name):
            if name[at:] in named and not (base and name[:at].endswith(base)):
                matches[name[:at]] += _MATCH if named[name[at:]] == tensor.shape else 1
    return matches


def _starts(name: str) -> Iterator[int]:
    """Yield where the name and its parts behind points begin."""
    yield 0
    yield from (at + 1 for at, letter in enumerate(name) if letter == ".")


def _same(one: Found, other: Found) -> bool:
    """Return True for tensors that are the same, or of which some are the others'."""
    common = one.tensors.keys() & other.tensors.keys()
    if not common or one.prefix == other.prefix:
        return one.prefix == other.prefix or one.prefix.startswith(other.prefix) or other.prefix.startswith(one.prefix)
    return all(torch.equal(one.tensors[name], other.tensors[name]) for name in common)


def _refuse_several(source: str, found: list[Found]) -> None:
    """Raise, with the places of which one is meant."""
    places = [one.prefix.removesuffix(".") for one in found]
    raise ConfigError(
        f"weights: {source} holds several that fit: {', '.join(repr(place) for place in places[:6])}; "
        f"say which one is meant, such as `weights='{source}#{places[0]}'`"
    )
