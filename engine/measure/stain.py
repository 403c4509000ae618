"""Stain normalisation: the fit of a slide's stains, and tiles changed to the stains of another.

A fit is a slide's: every tile of it is changed in the same way, so that a tile without tissue, or of one colour, is
changed as its slide is, and white stays white. Fits are those of the library torchstain; to apply one, what the
library does with each pixel is done by tables, within a grey level of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from slideduck.errors import BetonError

__all__ = [
    "METHODS",
    "REFERENCE",
    "MacenkoFit",
    "Normaliser",
    "ReinhardFit",
    "StainFit",
    "StainTarget",
    "fit_from_json",
    "fit_to_json",
    "reference_target",
    "stain_from_json",
    "stain_settings",
    "stain_to_json",
]

RGB = npt.NDArray[np.uint8]
Triple = tuple[float, float, float]

METHODS = ("macenko", "reinhard")

#: What slides are normalised to where no slide is named: Slideflow's averages.
REFERENCE = "slideflow-v3"

#: Light behind the slide, grey levels: white is without stain. Torchstain has 240 by default, with which what is
#: lighter is not left as it is; Slideflow has 255.
IO = 255
#: Torchstain's: pixels of less optical density in any channel do not decide the stains, and this percentile of the
#: angles, from either end, is a stain.
BETA = 0.15
ALPHA = 1

#: L* of the palest pixels that Reinhard's method changes wholly, and of the darkest that it leaves as they are.
#: Between them it changes a part. The library changes white too, and so colours the background.
PALE = (85.0, 95.0)

#: Steps of the tables: of optical density in a unit (natural logarithm), of linear light from 0 to 1, of CIE's f.
_DENSITY_STEPS = 2048
_LIGHT_STEPS = 1 << 14
_ROOT_STEPS = 1 << 12

#: Matrix and white of torchstain (`torchstain.numpy.utils.rgb2lab`), which are those of scikit-image: D65, 2°.
_XYZ_FROM_RGB = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])


@dataclass(frozen=True)
class MacenkoFit:
    """The two stains of a slide (M. Macenko et al., ISBI 2009).

    Attributes
    ----------
    haematoxylin, eosin : tuple of float
        Optical density of red, green and blue of each stain, as a vector of length 1.
    concentrations : tuple of float
        The greatest concentrations of the two: the 99th percentile.
    """

    haematoxylin: Triple
    eosin: Triple
    concentrations: tuple[float, float]

    method = "macenko"


@dataclass(frozen=True)
class ReinhardFit:
    """The colours of a slide's tissue (E. Reinhard et al., IEEE Comput. Graph. Appl. 21 (2001) 34–41).

    Attributes
    ----------
    lab_mean, lab_std : tuple of float
        Mean and standard deviation of L* (0 to 100), a* and b* of the tissue.
    """

    lab_mean: Triple
    lab_std: Triple

    method = "reinhard"


StainFit: TypeAlias = MacenkoFit | ReinhardFit

_FITS: dict[str, type[MacenkoFit] | type[ReinhardFit]] = {"macenko": MacenkoFit, "reinhard": ReinhardFit}

#: Version v3 of ``fit_presets`` of Slideflow 1.6 to 3.0 (``slideflow/norm/utils.py``): averages over some 50,000 tiles
#: of 450 slides of TCGA.
_REFERENCES: dict[str, StainFit] = {
    "macenko": MacenkoFit(
        (0.5062568, 0.75322306, 0.40691733), (0.2218694, 0.8652155, 0.42241502), (1.7656903, 1.2797493)
    ),
    "reinhard": ReinhardFit((65.22132, 28.934267, -14.142519), (15.800227, 9.263783, 6.0213304)),
}


@dataclass(frozen=True)
class StainTarget:
    """The stains that slides are normalised to.

    Attributes
    ----------
    name : str
        `REFERENCE`, or the slide whose stains they are.
    fit : MacenkoFit or ReinhardFit
        The stains.
    """

    name: str
    fit: StainFit


def reference_target(method: str) -> StainTarget:
    """Return the stains that slides are normalised to by default."""
    return StainTarget(REFERENCE, _REFERENCES[method])


def stain_settings(method: str) -> str:
    """Return the definition of fits and of normalised pixels as text, which differs if these would."""
    own: dict[str, object] = {"io": IO, "alpha": ALPHA, "beta": BETA} if method == "macenko" else {"pale": PALE}
    return json.dumps({"definition": 1, **own}, separators=(",", ":"))


def fit_to_json(fit: StainFit) -> dict[str, list[float]]:
    """Return the numbers of a fit by name."""
    return {name: list(values) for name, values in asdict(fit).items()}


def fit_from_json(method: str, numbers: Mapping[str, Any]) -> StainFit:
    """Return the fit whose numbers `fit_to_json` returned.

    Raises
    ------
    KeyError, TypeError, ValueError
        If they are not such numbers.
    """
    kind = _FITS[method]
    values = {f.name: tuple(float(value) for value in numbers[f.name]) for f in fields(kind)}
    for name, value in values.items():
        if len(value) != (2 if name == "concentrations" else 3) or not all(map(math.isfinite, value)):
            raise ValueError(f"{name} is {list(value)}")
    return kind(**values)  # type: ignore[arg-type]


def stain_to_json(target: StainTarget) -> dict[str, Any]:
    """Return the normalisation of tiles as a side-car's entry."""
    return {
        "method": target.fit.method,
        "settings": json.loads(stain_settings(target.fit.method)),
        "target": {"name": target.name, **fit_to_json(target.fit)},
    }


def stain_from_json(entry: Mapping[str, Any]) -> StainTarget:
    """Return the target of normalisation from an entry that `stain_to_json` made.

    Raises
    ------
    BetonError
        If they were normalised in another way than this version does it, or the entry is damaged.
    """
    try:
        method, settings, target = entry["method"], entry["settings"], entry["target"]
        if method not in METHODS or settings != json.loads(stain_settings(method)):
            raise BetonError(
                f"the tiles were normalised by {method} with the settings {json.dumps(settings)}, which this version "
                "of slideduck does not have; export again, or use the version that exported"
            )
        return StainTarget(target["name"], fit_from_json(method, target))
    except (KeyError, TypeError, ValueError) as error:
        raise BetonError(
            f"what the tiles were normalised to is damaged: {type(error).__name__}: {error}; export again"
        ) from None


class Normaliser:
    """Gives tiles of a slide the stains of the target.

    Parameters
    ----------
    source, target : MacenkoFit or ReinhardFit
        Fits of one method: of the slide, and what it is to be like.

    Notes
    -----
    Macenko: with optical densities ``-log((I + 1) / 255)``, none below 0, the concentrations of the two stains by
    least squares, these scaled so that the greatest are the target's, and the target's stains in them. All of it is
    one 3 × 3 matrix on optical densities.

    Reinhard: L*, a* and b* with the mean and the standard deviation of the target's tissue in place of the slide's.
    Pixels that are nearly white are changed less, and white not at all (`PALE`).

    A normaliser may be used by any number of threads at once, which do not wait for each other.
    """

    def __init__(self, source: StainFit, target: StainFit) -> None:
        self.method = source.method
        if isinstance(source, MacenkoFit) and isinstance(target, MacenkoFit):
            self._shares = _density_shares(source, target)
        elif isinstance(source, ReinhardFit) and isinstance(target, ReinhardFit):
            factor = np.array(target.lab_std) / np.array(source.lab_std)
            shift = np.array(target.lab_mean) - np.array(source.lab_mean) * factor
            self._move = np.array([*factor, *shift, *PALE], np.float32)
        else:
            raise ValueError(f"a fit of {source.method} and a target of {target.method}")

    def apply(self, rgb: RGB) -> RGB:
        """Return a tile in the stains of the target.

        Parameters
        ----------
        rgb : ndarray of uint8, shape (height, width, 3)
            The tile, which stays as it is.

        Returns
        -------
        ndarray of uint8, shape (height, width, 3)
        """
        # Compiling, or reading what was compiled, takes a moment, and few commands need it.
        from slideduck.measure.stain_pixels import mixed_pixels, reinhard_pixels

        pixels = np.ascontiguousarray(rgb).reshape(-1, 3)
        out = np.empty_like(pixels)
        if self.method == "macenko":
            mixed_pixels(pixels, self._shares, _grey_of_density(), out)
        else:
            reinhard_pixels(pixels, _xyz_shares(), _roots(), self._move, _rgb_from_xyz(), _grey_of_light(), out)
        return out.reshape(rgb.shape)


def _density_shares(source: MacenkoFit, target: MacenkoFit) -> npt.NDArray[np.int32]:
    """Return the shares of each channel and value in the optical densities of the normalised pixel."""
    own = np.array([source.haematoxylin, source.eosin]).T
    wanted = np.array([target.haematoxylin, target.eosin]).T
    scale = np.array(target.concentrations) / np.array(source.concentrations)
    matrix = (wanted * scale) @ np.linalg.pinv(own)
    density = np.maximum(-np.log((np.arange(256) + 1.0) / IO), 0.0)
    shares = matrix.T[:, None, :] * density[None, :, None]
    # Nothing that a fit can be comes near the bounds; they keep the sum of three a whole number of 32 bits.
    return np.ascontiguousarray(np.round(shares * _DENSITY_STEPS).clip(-(2**29), 2**29).astype(np.int32))


@cache
def _grey_of_density() -> npt.NDArray[np.uint8]:
    """Return grey levels by optical density, down to black."""
    density = np.arange(math.ceil(math.log(2 * IO) * _DENSITY_STEPS) + 2) / _DENSITY_STEPS
    return np.floor(IO * np.exp(-density) + 0.5).astype(np.uint8)


@cache
def _xyz_shares() -> npt.NDArray[np.float32]:
    """Return the shares of each channel and value in X, Y and Z, parts of white."""
    value = np.arange(256) / 255
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    shares = (_XYZ_FROM_RGB / _WHITE[:, None]).T[:, None, :] * linear[None, :, None]
    return np.ascontiguousarray(shares.astype(np.float32))


@cache
def _roots() -> npt.NDArray[np.float32]:
    """Return CIE's f(t): the cube root, and a line near 0."""
    t = np.arange(_ROOT_STEPS + 2) / _ROOT_STEPS
    return np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116).astype(np.float32)


@cache
def _rgb_from_xyz() -> npt.NDArray[np.float32]:
    """Return linear red, green and blue from X, Y and Z, parts of white."""
    return np.ascontiguousarray((np.linalg.inv(_XYZ_FROM_RGB) * _WHITE).astype(np.float32))


@cache
def _grey_of_light() -> npt.NDArray[np.uint8]:
    """Return grey levels by linear light."""
    light = np.arange(_LIGHT_STEPS + 1) / _LIGHT_STEPS
    value = np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
    return np.floor(255 * value + 0.5).astype(np.uint8)
