"""The layers of a network by depth: which of them train, and how fast each learns."""

from __future__ import annotations

from typing import Any

from torch import nn

from slideduck.errors import ConfigError
from slideduck.runner.settings.train_config import TrainConfig

__all__ = ["depths", "freeze", "head_of", "parameter_groups"]

#: What networks call the layer that gives the outputs.
_HEAD_NAMES = ("classifier", "head", "fc", "class_layers", "classification_head", "last_linear", "_fc")

#: Ends of the names of embeddings and tokens, which do not decay whatever their shape.
_NOT_DECAYED = (
    "cls_token", "mask_token", "register_tokens", "reg_token", "position_embeddings", "pos_embed",
    "relative_position_bias_table", "position_embedding",
)  # fmt: skip


def head_of(network: nn.Module) -> str:
    """Return the name of the module that gives the outputs.

    It is the child that has one of the usual names (``classifier``, ``head``, ``fc``, ...), else the last
    module that has parameters of its own.

    Raises
    ------
    ConfigError
        If the network has no parameters.
    """
    for name, child in network.named_children():
        if name in _HEAD_NAMES and any(True for _ in child.parameters()):
            return str(name)
    own: list[str] = [
        name for name, module in network.named_modules() if any(True for _ in module.parameters(recurse=False))
    ]
    if not own:
        raise ConfigError(f"the model, a {type(network).__name__}, has no parameters; there is nothing to train")
    return own[-1]


def depths(network: nn.Module) -> dict[str, int]:
    """Return the depth of each parameter by name: 0 is what comes before the blocks, the greatest is the head.

    Blocks are the layers of a transformer, or the blocks of the stages of a residual network, Swin or
    ConvNeXt; where a network has no such parts, its children, in the order in which they were defined.
    What is defined after the last block, such as a norm, has that block's depth.
    """
    head = head_of(network)
    blocks = _blocks(network, head)
    result: dict[str, int] = {}
    reached = 0
    for name, _ in network.named_parameters():
        if _within(name, head):
            continue
        block = next((number for number, block in enumerate(blocks, start=1) if _within(name, block)), None)
        # What stands between blocks, such as a down-sampling, goes with the block before it.
        reached = max(reached, block or 0)
        result[name] = reached if block is None else block
    return result | {name: len(blocks) + 1 for name, _ in network.named_parameters() if _within(name, head)}


def freeze(network: nn.Module, train_layers: str) -> None:
    """Let only some layers train; the others keep their weights and running statistics.

    What does not train has no gradients and stays in evaluation mode, whatever mode the network is put
    into: its batch norms do not move, and it draws no dropout.

    Parameters
    ----------
    network : nn.Module
        Changed in place.
    train_layers : str
        ``"all"``, ``"head"``, or a number: the head and so many of the last blocks.

    Raises
    ------
    ConfigError
        If there are not so many blocks.
    """
    for name, parameter in network.named_parameters():
        # Only pretraining by masks uses it: a parameter without a gradient would halt several processes.
        if name.endswith("mask_token"):
            parameter.requires_grad_(False)
    if train_layers == "all":
        return
    depth_of = depths(network)
    deepest = max(depth_of.values())
    last = 0 if train_layers == "head" else int(train_layers)
    if last >= deepest:
        raise ConfigError(
            f"train_layers is {train_layers!r}, but the model has {deepest - 1} blocks; "
            f"give a number up to {deepest - 1}, or all"
        )
    for name, parameter in network.named_parameters():
        if depth_of[name] < deepest - last:
            parameter.requires_grad_(False)
    _keep_frozen_in_evaluation(network)


def parameter_groups(network: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Return the parameters that train, in groups for an optimizer.

    Matrices and kernels decay; norms, biases, tokens and embeddings of positions do not. The rate of a
    group is the schedule's times its ``lr_scale``: ``layer_decay`` to the power of the number of blocks
    after it and one more, 1 for the head, or ``head_lr / lr``.
    """
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    by_layer = config.layer_decay != 1 or config.head_lr > 0
    depth_of = depths(network) if by_layer else dict.fromkeys(trained, 0)
    deepest = max(depth_of.values())
    groups: list[dict[str, Any]] = []
    for depth in sorted({depth_of[name] for name in trained}):
        names = [name for name in trained if depth_of[name] == depth]
        scale = config.layer_decay ** (deepest - depth)
        if by_layer and depth == deepest and config.head_lr > 0:
            scale = config.head_lr / config.lr
        plain = [name for name in names if trained[name].ndim <= 1 or name.endswith(_NOT_DECAYED)]
        for chosen, decay in ((set(names) - set(plain), config.weight_decay), (set(plain), 0.0)):
            if chosen or not by_layer:
                parameters = [trained[name] for name in names if name in chosen]
                groups.append({"params": parameters, "weight_decay": decay, "lr_scale": scale})
    return groups


def _within(name: str, module: str) -> bool:
    """Return True if a parameter or module of this name is the module, or in it."""
    return name == module or name.startswith(module + ".")


def _blocks(network: nn.Module, head: str) -> list[str]:
    """Return the names of the blocks, in the order in which they are defined."""
    stages = _stages(network, "", head)
    blocks: list[str] = []
    for stage in stages:
        inner = _inner_blocks(network.get_submodule(stage))
        blocks += [f"{stage}.{name}" for name in inner] or [stage]
    return blocks


def _stages(module: nn.Module, name: str, head: str) -> list[str]:
    """Return the names of the parts in a row that most of the module is made of."""
    children = [
        (f"{name}.{child_name}".removeprefix("."), child)
        for child_name, child in module.named_children()
        if _count(child)
    ]
    children = [(child_name, child) for child_name, child in children if not _within(child_name, head)]
    if isinstance(module, (nn.ModuleList, nn.Sequential)):
        return [child_name for child_name, _ in children]
    # Stages that are attributes: layer1 to layer4.
    for _, first in children:
        alike = [child_name for child_name, child in children if type(child) is type(first)]
        if isinstance(first, (nn.Sequential, nn.ModuleList)) and len(alike) >= 3:
            return alike
    if not children:
        return []
    largest_name, largest = max(children, key=lambda item: _count(item[1]))
    deeper = _stages(largest, largest_name, head) if any(True for _ in largest.children()) else []
    return deeper or [child_name for child_name, _ in children]


def _inner_blocks(stage: nn.Module) -> list[str]:
    """Return the names of the blocks of a stage, none where it is a block itself."""
    if isinstance(stage, (nn.Sequential, nn.ModuleList)):
        return _alike(stage)
    for name, child in stage.named_children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)) and _count(child) > _count(stage) / 2:
            # A block holds its convolutions in a row as well; blocks are called by what they are.
            return [f"{name}.{inner}" for inner in _alike(child)] if name in ("blocks", "layers") else []
    return []


def _alike(row: nn.Module) -> list[str]:
    """Return the names of the modules in a row, none unless they are all of one class."""
    children = list(row.named_children())
    simple = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)
    is_row = len({type(child) for _, child in children}) == 1 and not isinstance(children[0][1], simple)
    return [name for name, _ in children] if is_row else []


def _count(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def _keep_frozen_in_evaluation(network: nn.Module) -> None:
    """Keep modules in evaluation mode in which nothing trains."""
    for child in network.children():
        parameters = list(child.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            child.eval()
            # Of the instance: nn.Module.train calls it for each child.
            object.__setattr__(child, "train", _StayInEvaluation(child))
        else:
            _keep_frozen_in_evaluation(child)


class _StayInEvaluation:
    """Replaces ``train`` of a module that does not train; a class, so that a network can be copied."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        return self.module
