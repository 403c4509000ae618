"""Names of models, and the pathology encoders as their authors publish them.

Nothing here needs torch: the settings are checked with it before torch is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "BUILT_IN",
    "ENCODERS",
    "GIVEN",
    "LIBRARIES",
    "MODELS",
    "Encoder",
    "check_model",
    "is_given",
    "is_own_model",
    "model_names",
    "titled",
]

#: ResNets with random weights; the first is the default.
MODELS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")

#: Further configurations of transformers that are built by name, with random weights.
BUILT_IN = ("vit-s16", "vit-b16", "dinov2-s14", "swin-t", "convnext-t")

#: Prefixes of names that a library knows.
LIBRARIES = ("hf", "timm", "monai")

#: Stands before the name of a network that was given as an object; no module has such a name.
GIVEN = "<given>"

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))

#: Stands for what only timm and torch can give: the layer and the function of that name.
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}


@dataclass(frozen=True)
class Encoder:
    """A pathology encoder, as its authors publish it.

    Attributes
    ----------
    library : {"hf", "timm"}
        What builds it.
    hub : str
        Its name on the Hugging Face hub, where most ask for an account and an agreement.
    pooling : {"cls", "cls+mean"}
        What its authors take of the tokens: the class token, or that and the mean of the patches.
    mean, std : tuple of float
        Of its input, on the scale of 0 to 1.
    patch_px : int
        Side of a patch; the side of its input is a multiple of it.
    prefix_tokens : int
        Class and register tokens, which come before the patches.
    input_px : int
        Side of the tiles that it was trained on, pixels.
    architecture : str
        The architecture in timm that the weights are of.
    arguments : mapping
        What timm's ``create_model`` takes beside the name. ``mlp_layer`` and ``act_layer`` are names of
        classes in ``timm.layers`` and ``torch.nn``.
    """

    library: str
    hub: str
    pooling: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    patch_px: int
    prefix_tokens: int = 1
    input_px: int = 224
    architecture: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """Its page, with its licence, its arguments and its preprocessing."""
        return f"https://huggingface.co/{self.hub}"


_VIRCHOW = {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", **_SWIGLU}
_H_OPTIMUS = {"img_size": 224, "global_pool": "token", "init_values": 1e-5}

# Arguments, pooling and preprocessing are those of each model's page on the hub (`Encoder.source`); they agree with
# TRIDENT's trident/patch_encoder_models/load.py, which builds the same models from local weights.
ENCODERS: Mapping[str, Encoder] = {
    "uni": Encoder(
        "timm", "MahmoodLab/UNI", "cls", *_IMAGENET, patch_px=16, architecture="vit_large_patch16_224",
        arguments={"img_size": 224, "init_values": 1e-5},
    ),
    "uni2": Encoder(
        "timm", "MahmoodLab/UNI2-h", "cls", *_IMAGENET, patch_px=14, prefix_tokens=9,
        architecture="vit_giant_patch14_224",
        arguments={
            "img_size": 224, "patch_size": 14, "depth": 24, "num_heads": 24, "init_values": 1e-5, "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2, "no_embed_class": True, "reg_tokens": 8, **_SWIGLU,
        },
    ),
    "virchow": Encoder(
        "timm", "paige-ai/Virchow", "cls+mean", *_IMAGENET, patch_px=14, architecture="vit_huge_patch14_224",
        arguments=_VIRCHOW,
    ),
    "virchow2": Encoder(
        "timm", "paige-ai/Virchow2", "cls+mean", *_IMAGENET, patch_px=14, prefix_tokens=5,
        architecture="vit_huge_patch14_224", arguments={**_VIRCHOW, "reg_tokens": 4},
    ),
    "gigapath": Encoder(
        "timm", "prov-gigapath/prov-gigapath", "cls", *_IMAGENET, patch_px=16,
        architecture="vit_giant_patch14_dinov2",
        arguments={
            "img_size": 224, "patch_size": 16, "embed_dim": 1536, "depth": 40, "num_heads": 24, "init_values": 1e-5,
            "mlp_ratio": 5.33334,
        },
    ),
    "h-optimus-0": Encoder(
        "timm", "bioptimus/H-optimus-0", "cls", *_OPTIMUS, patch_px=14, prefix_tokens=5,
        architecture="vit_giant_patch14_reg4_dinov2", arguments=_H_OPTIMUS,
    ),
    "h-optimus-1": Encoder(
        "timm", "bioptimus/H-optimus-1", "cls", *_OPTIMUS, patch_px=14, prefix_tokens=5,
        architecture="vit_giant_patch14_reg4_dinov2", arguments=_H_OPTIMUS,
    ),
    "phikon": Encoder("hf", "owkin/phikon", "cls", *_IMAGENET, patch_px=16),
    "phikon2": Encoder("hf", "owkin/phikon-v2", "cls", *_IMAGENET, patch_px=16),
    "midnight": Encoder("hf", "kaiko-ai/midnight", "cls+mean", *_HALF, patch_px=14),
}  # fmt: skip


def model_names() -> str:
    """Return the names that a model may have, in words."""
    return (
        f"{', '.join((*MODELS, *BUILT_IN))}, {', '.join(ENCODERS)}, hf:NAME_OR_FOLDER, timm:NAME, monai:NAME, "
        "or module:function"
    )


def is_own_model(name: str) -> bool:
    """Return True for ``module:function``: code of the user's own, or of anybody who wrote the name."""
    before, colon, after = name.partition(":")
    is_code = all(part.isidentifier() for part in before.split(".")) and after.isidentifier()
    return bool(colon) and before not in LIBRARIES and is_code


def is_given(name: str) -> bool:
    """Return True for ``<given>:NAME``: a network that was given as an object, and has to be given again."""
    before, colon, after = name.partition(":")
    return before == GIVEN and bool(colon) and after.isidentifier()


def titled(name: str) -> str:
    """Return a model's name for a message: ``model 'resnet18'``, or ``network Net`` for one that was given."""
    return f"network {name.partition(':')[2]}" if is_given(name) else f"model {name!r}"


def check_model(name: str) -> str | None:
    """Return which names a model may have if this is none of them, else None."""
    if name in MODELS or name in BUILT_IN or name in ENCODERS or is_own_model(name) or is_given(name):
        return None
    before, _, after = name.partition(":")
    is_library = before in LIBRARIES and after and after.isprintable()
    return None if is_library else f"it must be one of {model_names()}"
