"""Whether the packages of the extra ``slideduck[train]``, which the runner needs, are installed."""

from __future__ import annotations

from importlib.util import find_spec

from slideduck.errors import MissingPackageError

__all__ = ["TRAIN_MODULES", "require_train"]

#: Modules of the extra without which nothing of the runner works. TensorBoard's may be missing: what `--track` names
#: by default is passed over then.
TRAIN_MODULES = ("torch", "ffcv", "scipy", "transformers", "safetensors", "cloudpickle")


def require_train(what: str) -> None:
    """Raise unless the packages that the runner needs are installed; nothing is imported.

    Parameters
    ----------
    what : str
        What is about to need it, for the message, such as ``"slideduck train"``.

    Raises
    ------
    MissingPackageError
        With what to install.
    """
    for name in TRAIN_MODULES:
        if not _is_there(name):
            raise MissingPackageError(
                f"{what} needs {name}, which is not installed; install it with: pip install 'slideduck[train]'",
                name=name,
            )


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # somebody hides it from this process
        return False
