"""The files that a network can be exported into, and what writes them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from slideduck.errors import ConfigError

__all__ = ["require_model_file"]


def require_model_file(out: Path) -> None:
    """Raise if a file's suffix says no form of a model, or what writes that form is not installed.

    Raises
    ------
    ConfigError
        With the suffixes that there are, or what to install.
    """
    out = out.absolute()
    if out.suffix not in (".onnx", ".safetensors"):
        raise ConfigError(f"{out}: ends in neither .onnx nor .safetensors; name the file so")
    needed = ("onnx", "onnxscript", "onnxruntime") if out.suffix == ".onnx" else ("safetensors",)
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{out.name} needs {', '.join(missing)}; install it with: pip install 'slideduck[onnx]'")
