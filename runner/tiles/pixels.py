"""The pixel operations of augmentation: one call for a batch, with numbers of its own for each tile.

All functions take and return tiles of float32, (batch, 3, height, width), on the scale of 0 to 255, as
planes (contiguous, not channels last: colours are mixed and planes filtered faster so). They are our own:
kornia 0.9 takes 4 times as long for JPEG and 10 times for hue alone, as for all colours here, on tiles of
256 px and two cores, and what is left is a few lines.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

__all__ = [
    "blur",
    "colour_matrices",
    "crop",
    "jpeg",
    "mix_colours",
    "mix_stains",
    "quantisation_tables",
    "sharpen",
    "stain_matrices",
]

Floats = NDArray[np.float64]

# Optical density of haematoxylin, eosin and DAB in red, green and blue: Ruifrok and Johnston, Quantification
# of histochemical staining by color deconvolution, 2001; as scikit-image has them.
_RGB_FROM_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_HED_FROM_RGB = np.linalg.inv(_RGB_FROM_HED)

# Luma of ITU-R BT.601, also that of JPEG, and the two axes of colour of NTSC beside it.
_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ_FROM_RGB = np.array(
    [_LUMA, [0.59590059, -0.27455667, -0.32134392], [0.21153661, -0.52273617, 0.31119955]],
)
_RGB_FROM_YIQ = np.linalg.inv(_YIQ_FROM_RGB)

# JFIF 1.02, section "Conversion to and from RGB".
_YCC_FROM_RGB = np.array([_LUMA, [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]])
_RGB_FROM_YCC = np.array([[1, 0, 1.402], [1, -0.344136286, -0.714136286], [1, 1.772, 0]])

# ITU-T T.81, tables K.1 and K.2, which libjpeg scales by the quality.
_LUMA_TABLE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
_CHROMA_TABLE = (
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 " + "99 " * 32
)


def crop(images_BCHW: torch.Tensor, sides_B: torch.Tensor, places_B2: torch.Tensor) -> torch.Tensor:
    """Return a square part of each tile, enlarged to the whole tile (bilinear).

    Parameters
    ----------
    images_BCHW : torch.Tensor
        Tiles.
    sides_B : torch.Tensor of float32, (batch,)
        Side of the part, as a fraction of the tile's.
    places_B2 : torch.Tensor of float32, (batch, 2)
        Where it lies, x and y: 0 at the left and top, 1 at the right and bottom.
    """
    theta = torch.zeros(len(images_BCHW), 2, 3, device=images_BCHW.device)
    theta[:, 0, 0] = sides_B
    theta[:, 1, 1] = sides_B
    theta[:, :, 2] = (2 * places_B2 - 1) * (1 - sides_B[:, None])
    grid = F.affine_grid(theta, list(images_BCHW.shape), align_corners=False)
    return F.grid_sample(images_BCHW, grid, padding_mode="border", align_corners=False)


def stain_matrices(factors_B3: Floats, shifts_B3: Floats) -> tuple[Floats, Floats]:
    """Return the matrices that change stains by a factor and a shift, for optical densities.

    Tellez et al., Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference to train
    distilled stain-invariant convolutional networks, 2018: each stain s becomes ``factor * s + shift``. The
    stains are those of scikit-image's ``rgb2hed`` but for its unit, which is ``ln(1e6)``; here it is 1, and
    stains below nothing, which no mixture of the three gives, are kept, so that factor 1 and shift 0 change
    nothing.

    Parameters
    ----------
    factors_B3, shifts_B3 : ndarray, (batch, 3)
        Of haematoxylin, eosin and DAB.

    Returns
    -------
    matrices_B33, offsets_B3 : ndarray
        For columns of optical densities of red, green and blue; see `mix_stains`.
    """
    matrices = np.einsum("ij,bj,jk->bki", _HED_FROM_RGB, factors_B3, _RGB_FROM_HED)
    return matrices, shifts_B3 @ _RGB_FROM_HED


def mix_stains(images_BCHW: torch.Tensor, matrices_B33: torch.Tensor, offsets_B3: torch.Tensor) -> torch.Tensor:
    """Return tiles whose optical densities are mixed as `stain_matrices` says."""
    # Black has no density of its own: that of level 1 stands for it.
    density = images_BCHW.clamp(min=1.0).div_(255.0).log_().neg_().flatten(2)
    mixed = torch.baddbmm(offsets_B3[:, :, None], matrices_B33, density)
    return mixed.neg_().exp_().mul_(255.0).clamp_(max=255.0).view_as(images_BCHW)


def colour_matrices(brightness: Floats, contrast: Floats, saturation: Floats, hue: Floats) -> tuple[Floats, Floats]:
    """Return the matrices that change brightness, contrast, saturation and hue, in this order.

    All four are linear: brightness multiplies; contrast moves away from the tile's mean grey and
    saturation from each pixel's grey; hue turns the two axes of colour of NTSC's YIQ, which leaves luma as
    it is. So one matrix does all, and nothing is clipped between.

    Parameters
    ----------
    brightness, contrast, saturation : ndarray, (batch,)
        Factors; 1 changes nothing.
    hue : ndarray, (batch,)
        In whole turns.

    Returns
    -------
    matrices_B33 : ndarray, (batch, 3, 3)
        For columns of red, green and blue.
    greys_B : ndarray, (batch,)
        Part of the tile's mean grey that is added; see `mix_colours`.
    """
    n = len(hue)
    angle = 2 * np.pi * hue
    turn = np.zeros((n, 3, 3))
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 1, 2] = -np.sin(angle)
    turn[:, 2, 1] = np.sin(angle)
    saturate = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * np.tile(_LUMA, (3, 1))
    matrices = _RGB_FROM_YIQ @ turn @ _YIQ_FROM_RGB @ saturate * (brightness * contrast)[:, None, None]
    # Saturation and hue leave greys as they are, so that what contrast adds goes through them unchanged.
    return matrices, (1 - contrast) * brightness


def mix_colours(images_BCHW: torch.Tensor, matrices_B33: torch.Tensor, greys_B: torch.Tensor) -> torch.Tensor:
    """Return tiles whose colours are mixed as `colour_matrices` says."""
    pixels = images_BCHW.flatten(2)
    grey_B = pixels.mean(2) @ _constants(images_BCHW.device)["ycc"][0]
    offsets = (greys_B * grey_B)[:, None, None].expand(-1, 3, 1)
    return torch.baddbmm(offsets, matrices_B33, pixels).clamp_(0.0, 255.0).view_as(images_BCHW)


def blur(images_BCHW: torch.Tensor, sigmas_B: torch.Tensor, largest_sigma: float) -> torch.Tensor:
    """Return tiles blurred by Gaussians; edges are reflected.

    Parameters
    ----------
    images_BCHW : torch.Tensor
        Tiles.
    sigmas_B : torch.Tensor of float32, (batch,)
        Deviations in pixels, above 0.
    largest_sigma : float
        None of them is larger: the kernels reach three times as far.
    """
    batch, channels, height, width = images_BCHW.shape
    reach = min(math.ceil(3 * largest_sigma), height - 1, width - 1)
    x = torch.arange(-reach, reach + 1, device=images_BCHW.device, dtype=torch.float32)
    kernels = torch.exp(-0.5 * (x / sigmas_B[:, None]) ** 2)
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    images = F.pad(images_BCHW, (reach, reach, reach, reach), mode="reflect").view(
        1, batch * channels, -1, width + 2 * reach
    )
    images = F.conv2d(images, kernels[:, None, None, :], groups=batch * channels)
    images = F.conv2d(images, kernels[:, None, :, None], groups=batch * channels)
    return images.view(batch, channels, height, width)


def sharpen(images_BCHW: torch.Tensor, amounts_B: torch.Tensor) -> torch.Tensor:
    """Return tiles to which a part of the detail that smoothing removes was added.

    The smoothing is Pillow's ``ImageFilter.SMOOTH``: 3 × 3, weight 5 in the middle and 1 around.

    Parameters
    ----------
    images_BCHW : torch.Tensor
        Tiles.
    amounts_B : torch.Tensor of float32, (batch,)
        The part; 0 changes nothing.
    """
    padded = F.pad(images_BCHW, (1, 1, 1, 1), mode="replicate")
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    # What is taken away: the tile less (around + 4 * tile) / 13.
    taken = around.div_(-13.0).add_(images_BCHW, alpha=9 / 13)
    return torch.addcmul(images_BCHW, taken, amounts_B.view(-1, 1, 1, 1)).clamp_(0.0, 255.0)


def quantisation_tables(qualities_B: NDArray[np.int64]) -> Floats:
    """Return libjpeg's tables of each quality: (batch, 2, 64), for luma and chroma, in order of rows."""
    base = np.array([[float(word) for word in table.split()] for table in (_LUMA_TABLE, _CHROMA_TABLE)])
    scale = np.where(qualities_B < 50, 5000 // np.maximum(qualities_B, 1), 200 - 2 * qualities_B)
    tables: Floats = np.clip((base * scale[:, None, None] + 50) // 100, 1, 255)
    return tables


def jpeg(images_BCHW: torch.Tensor, tables_B264: torch.Tensor) -> torch.Tensor:
    """Return tiles as they are after compression as JPEG, with chroma at half the resolution (4:2:0).

    What loses pixels is computed as libjpeg does: colours, halving, cosine transform of 8 × 8 blocks,
    quantisation, and the way back with linear interpolation of chroma. The result is whole numbers,
    within a few levels of libjpeg's, which transforms in whole numbers.

    Parameters
    ----------
    images_BCHW : torch.Tensor
        Tiles.
    tables_B264 : torch.Tensor of float32, (batch, 2, 64)
        As from `quantisation_tables`.
    """
    height, width = images_BCHW.shape[2:]
    padded = F.pad(images_BCHW, (0, -width % 16, 0, -height % 16), mode="replicate")
    constants = _constants(images_BCHW.device)
    shape = padded.shape
    ycc = torch.matmul(constants["ycc"], padded.round().flatten(2)).view(shape).round_()
    # Colours are signed here, as luma is less 128: the cosine transform wants them so.
    luma = _quantise(ycc[:, :1] - 128.0, tables_B264[:, 0], constants["dct"]) + 128.0
    chroma = F.avg_pool2d(ycc[:, 1:], 2)
    chroma = _quantise(chroma.round_(), tables_B264[:, 1], constants["dct"])
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    decoded = torch.cat([luma.clamp_(0.0, 255.0), chroma.clamp_(-128.0, 127.0)], 1).round_()
    rgb = torch.matmul(constants["rgb"], decoded.flatten(2)).view(shape)
    return rgb[:, :, :height, :width].round().clamp_(0.0, 255.0)


def _quantise(planes: torch.Tensor, tables_B64: torch.Tensor, dct: torch.Tensor) -> torch.Tensor:
    """Return planes whose blocks of 8 × 8 are rounded to the steps of their tables."""
    batch, channels, height, width = planes.shape
    blocks = planes.view(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4).reshape(batch, -1, 64)
    steps = tables_B64[:, None]
    # A value half-way between two steps, which integers often give, is to fall to the same side on any machine.
    rounded = ((blocks @ dct.T) / steps + 1e-4).round_() * steps
    restored = (rounded @ dct).view(batch, channels, height // 8, width // 8, 8, 8)
    return restored.transpose(3, 4).reshape(batch, channels, height, width)


@functools.cache
def _constants(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the matrices of JPEG on a device."""
    frequency, place = np.mgrid[:8, :8]
    cosines = np.cos((2 * place + 1) * frequency * np.pi / 16) / 2
    cosines[0] /= np.sqrt(2)
    matrices = {"ycc": _YCC_FROM_RGB, "rgb": _RGB_FROM_YCC, "dct": np.kron(cosines, cosines)}
    return {name: torch.tensor(matrix, dtype=torch.float32, device=device) for name, matrix in matrices.items()}
