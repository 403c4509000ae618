"""The trackers that ``--track`` may name, and whether their packages are installed."""

from __future__ import annotations

from importlib.util import find_spec

from slideduck.errors import ConfigError

__all__ = ["TRACKERS", "require_trackers", "tracker_names"]

#: Names of trackers, as ``--track`` takes them.
TRACKERS = ("tensorboard", "mlflow", "wandb")


def tracker_names(track: str) -> tuple[str, ...]:
    """Return the trackers that ``--track`` names; none for ``"none"``.

    Raises
    ------
    ConfigError
        For a name that is none of theirs, or is there twice.
    """
    if track == "none":
        return ()
    names = tuple(name.strip() for name in track.split(","))
    if not set(names) <= set(TRACKERS) or len(set(names)) < len(names):
        raise ConfigError(f"track is {track!r}; it must be none, or one or more of {', '.join(TRACKERS)}, by comma")
    return names


def require_trackers(track: str) -> None:
    """Raise unless the packages of the trackers are installed; TensorBoard's may be missing.

    Raises
    ------
    ConfigError
        With what to install.
    """
    for name in tracker_names(track):
        if name != "tensorboard" and find_spec(name) is None:
            raise ConfigError(
                f"track is {track!r} but {name} is not installed; pip install 'slideduck[{name}]', or leave it out"
            )
