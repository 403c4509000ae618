"""Networks that are given as objects: a function, a class or a module, also one of a script or a notebook.

What can be imported is recorded by its name, ``module:function``, as if it had been named. All else is recorded as
``<given>:NAME``: a run holds its weights and no code, so whoever loads the run gives the network again. To the
processes of a training it travels by value, through the pipe that starts them; nothing is read back from a file.
"""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from torch import nn

from slideduck.errors import ConfigError
from slideduck.runner.settings.modelnames import GIVEN, is_given, is_own_model, titled
from slideduck.runner.settings.train_config import TrainConfig

__all__ = ["Network", "built_by", "named", "received", "require_given", "sent"]

#: A module, or what returns one when it is called with the number of outputs.
Network = nn.Module | Callable[[int], nn.Module]


def _name(network: object) -> str:
    """Return the name that a run records of a network."""
    module, own = str(getattr(network, "__module__", "")), str(getattr(network, "__qualname__", ""))
    is_named = not isinstance(network, nn.Module) and is_own_model(f"{module}:{own}")
    # The name of a script's own, or of one that was replaced since, leads elsewhere or nowhere.
    is_there = is_named and module != "__main__" and getattr(sys.modules.get(module), own, None) is network
    if is_there and _is_found(module):
        return f"{module}:{own}"
    own = (own or type(network).__qualname__).rpartition(".")[2].strip("<>")
    return f"{GIVEN}:{own}"


def _is_found(module: str) -> bool:
    """Return True if another process would find the first package of a module."""
    return PathFinder.find_spec(module.partition(".")[0], [*sys.path, str(Path.cwd())]) is not None


def named(config: TrainConfig, network: Network | None) -> TrainConfig:
    """Return the settings of a training with the name of its network.

    Raises
    ------
    ConfigError
        If it is no network, or the settings name another one.
    """
    if network is None:
        return config
    if not callable(network):
        raise ConfigError(
            f"network is {network!r}, a {type(network).__name__}; it must be a torch.nn.Module, or a function that "
            "returns one for a number of outputs"
        )
    name = _name(network)
    if config.model not in (TrainConfig.model, name):
        raise ConfigError(f"model is {config.model!r} and `network` is given, {titled(name)}; give one of them")
    return replace(config, model=name)


def require_given(model: str, network: object, of: str = "") -> None:
    """Raise unless a network is given where a model's name asks for one, and only there.

    Parameters
    ----------
    model : str
        As the settings name it.
    network : object
        What was given, or None.
    of : str
        Whose model it is, for the message.

    Raises
    ------
    ConfigError
        With what to give.
    """
    if is_given(model):
        if network is None:
            name = model.partition(":")[2]
            raise ConfigError(
                f"{of}{titled(model)} was given from Python, and a run holds its weights and no code; give it again "
                f"from Python, as `network={name}`: the function or module that the run was trained with"
            )
    elif network is not None and not is_own_model(model):
        raise ConfigError(f"`network` is given, but {of}{titled(model)} is built by its name; leave it out")


def built_by(network: Network, name: str, n_outputs: int) -> nn.Module:
    """Return the module that a function builds, or a copy of a module on the CPU.

    Raises
    ------
    ConfigError
        If the function fails, it returns no module, or a module cannot be copied.
    """
    try:
        model = copy.deepcopy(network).cpu() if isinstance(network, nn.Module) else network(n_outputs)
    except ConfigError:
        raise
    except Exception as error:
        cannot = "copied; give the function that builds it" if isinstance(network, nn.Module) else "built"
        raise ConfigError(f"{titled(name)} cannot be {cannot}: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{titled(name)} returned a {type(model).__name__}; it must return a torch.nn.Module")
    return model


def sent(network: Network | None) -> bytes | None:
    """Return a network as processes that this one starts take it; see `received`.

    Raises
    ------
    ConfigError
        If it cannot be sent.
    """
    if network is None:
        return None
    import cloudpickle

    module = sys.modules.get(getattr(network, "__module__", ""))
    with _by_value(module):
        try:
            data: bytes = cloudpickle.dumps(network)
        except Exception as error:  # whatever the parts of a network raise
            raise ConfigError(
                f"{titled(_name(network))} cannot be sent to other processes ({type(error).__name__}: {error}); put "
                "the function that builds it into a module beside the script, and give `model='module:function'`"
            ) from error
    return data


@contextmanager
def _by_value(module: ModuleType | None) -> Iterator[None]:
    """Send a module's functions whole where another process would not find it: a test runner may have loaded it."""
    import cloudpickle

    if module is None or module.__name__ == "__main__" or _is_found(module.__name__):
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def received(data: bytes | None, model: str) -> Network | None:
    """Return the network that the process which started this one has sent.

    Raises
    ------
    ConfigError
        If a module that it needs is not found here.
    """
    if data is None:
        return None
    try:
        network: Network = pickle.loads(data)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{titled(model)} cannot be built in another process ({type(error).__name__}: {error}); put the function "
            "that builds it, and what it needs, into a module beside the script, and give `model='module:function'`"
        ) from error
    return network
