"""How tiles are augmented in training, from one line: a preset, or a list such as ``d4,stain:0.1``."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from slideduck.errors import ConfigError

__all__ = ["PRESETS", "Recipe", "parse_recipe"]

#: Names that stand for a list.
PRESETS = {
    "none": "",
    "d4": "d4",
    "standard": "d4,crop:0.8,stain:0.1,colour:0.1,blur:0.1:1,jpeg:0.2:50",
    "strong": "d4,crop:0.5,stain:0.2,colour:0.2,blur:0.3:2,sharpen:0.1:1,jpeg:0.3:30",
}


@dataclass(frozen=True)
class Recipe:
    """The steps of augmentation, in the order of the fields; each tile has random numbers of its own.

    Attributes
    ----------
    d4 : bool
        Flip and turn into one of the eight positions.
    crop : float
        Least part of the tile's area that is kept and enlarged to the whole tile; 1 keeps all.
    stain : float
        Each of the stains haematoxylin, eosin and DAB is multiplied by a number from 1 - `stain` to
        1 + `stain`, and grows by one from -`stain` to `stain`, in units of optical density (natural
        logarithm).
    brightness, contrast, saturation : float
        Each factor is from 1 - number to 1 + number.
    hue : float
        Largest turn of the hue, in whole turns of the colour circle.
    blur, blur_sigma : float
        Part of the tiles that is blurred, by Gaussians of a deviation of up to `blur_sigma` pixels.
    sharpen, sharpen_amount : float
        Part of the tiles that is sharpened, and the most that is added of what smoothing takes away.
    jpeg : float
        Part of the tiles that is compressed again.
    jpeg_quality : int
        Lowest quality of that; the highest is 95.
    """

    d4: bool = False
    crop: float = 1.0
    stain: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    blur: float = 0.0
    blur_sigma: float = 2.0
    sharpen: float = 0.0
    sharpen_amount: float = 1.0
    jpeg: float = 0.0
    jpeg_quality: int = 30

    @property
    def is_nothing(self) -> bool:
        """True if tiles are left as they are."""
        return not self.d4 and self.leaves_pixels

    @property
    def leaves_pixels(self) -> bool:
        """True if pixels are at most moved."""
        return self.crop == 1 and not (self.stain or self.has_colour or self.blur or self.sharpen or self.jpeg)

    @property
    def has_colour(self) -> bool:
        """True if brightness, contrast, saturation or hue are changed."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue)


@dataclass(frozen=True)
class _Number:
    """A number of an item: the field it sets, what it is, and what it may be."""

    field: str
    text: str
    least: float
    greatest: float
    open_below: bool = False
    whole: bool = False

    def read(self, text: str, where: str) -> float:
        """Return the number that `text` is."""
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        below = number <= self.least if self.open_below else number < self.least
        # A NaN compares as false with everything.
        if below or not number <= self.greatest or (self.whole and number != int(number)):
            bound = f"above {self.least:g} and" if self.open_below else f"from {self.least:g}"
            upper = f"at most {self.greatest:g}" if self.open_below else f"to {self.greatest:g}"
            kind = "a whole number" if self.whole else "a number"
            raise ConfigError(f"{where}: {self.text} is {text!r}; it must be {kind} {bound} {upper}")
        return int(number) if self.whole else number


_ITEMS: dict[str, tuple[_Number, ...]] = {
    "d4": (),
    "crop": (_Number("crop", "the least part that is kept", 0.05, 1),),
    "stain": (_Number("stain", "the strength", 0, 1),),
    "colour": (_Number("colour", "the strength", 0, 1),),
    "brightness": (_Number("brightness", "the strength", 0, 1),),
    "contrast": (_Number("contrast", "the strength", 0, 1),),
    "saturation": (_Number("saturation", "the strength", 0, 1),),
    "hue": (_Number("hue", "the turn", 0, 0.5),),
    "blur": (
        _Number("blur", "the part of the tiles", 0, 1),
        _Number("blur_sigma", "the deviation in pixels", 0, 20, open_below=True),
    ),
    "sharpen": (
        _Number("sharpen", "the part of the tiles", 0, 1),
        _Number("sharpen_amount", "the amount", 0, 10, open_below=True),
    ),
    "jpeg": (
        _Number("jpeg", "the part of the tiles", 0, 1),
        _Number("jpeg_quality", "the lowest quality", 1, 95, whole=True),
    ),
}

_FORMS = (
    "d4, crop:PART, stain:STRENGTH, colour:STRENGTH, brightness:STRENGTH, contrast:STRENGTH, saturation:STRENGTH, "
    "hue:TURN, blur:PART[:SIGMA], sharpen:PART[:AMOUNT], jpeg:PART[:QUALITY]"
)


def parse_recipe(text: str) -> Recipe:
    """Return the augmentation that a line describes.

    Parameters
    ----------
    text : str
        One of `PRESETS`, or items separated by commas, in any order: ``d4``, ``crop:PART``,
        ``stain:STRENGTH``, ``colour:STRENGTH`` (brightness, contrast and saturation by the strength, hue by
        a quarter of it), ``brightness:``, ``contrast:``, ``saturation:``, ``hue:TURN``,
        ``blur:PART[:SIGMA]``, ``sharpen:PART[:AMOUNT]``, ``jpeg:PART[:QUALITY]``. A preset may come first;
        what follows it takes the place of its numbers.

    Raises
    ------
    ConfigError
        Naming the item, and what there is.
    """
    items = [item.strip() for item in text.split(",")]
    recipe = Recipe()
    if items[0] in PRESETS and items[0] != "d4":
        first = items.pop(0)
        if first == "none" and items:
            raise ConfigError(f"augment is {text!r}: none stands alone; leave it out, or what follows it")
        recipe = parse_recipe(PRESETS[first]) if PRESETS[first] else recipe
    split = [[part.strip() for part in item.split(":")] for item in items]
    seen = set()
    # Colour stands for four; what is said of one of them counts, wherever it stands.
    for name, *numbers in sorted(split, key=lambda parts: parts[0] != "colour"):
        if name in seen:
            raise ConfigError(f"augment is {text!r}: {name} is there twice; give it once")
        seen.add(name)
        recipe = replace(recipe, **_read(text, name, numbers))
    return recipe


def _read(text: str, name: str, numbers: list[str]) -> dict[str, Any]:
    """Return the fields that an item sets."""
    if name not in _ITEMS:
        raise ConfigError(
            f"augment is {text!r}: there is no augmentation {name!r}; "
            f"it must be one of {', '.join(PRESETS)}, or a list of {_FORMS}"
        )
    known = _ITEMS[name]
    if name == "d4":
        if numbers:
            raise ConfigError(f"augment is {text!r}: d4 takes no number")
        return {"d4": True}
    if not 1 <= len(numbers) <= len(known):
        form = next(form for form in _FORMS.split(", ") if form.startswith(f"{name}:"))
        raise ConfigError(f"augment is {text!r}: {name} must be written {form}")
    where = f"augment is {text!r}: {name}"
    values: dict[str, float] = {
        number.field: number.read(part, where) for number, part in zip(known, numbers, strict=False)
    }
    if name == "colour":
        strength = values["colour"]
        # The turn of the hue that goes with a strength: Chen et al., SimCLR, 2020, appendix A.
        values = {"brightness": strength, "contrast": strength, "saturation": strength, "hue": strength / 4}
    assert set(values) <= {field.name for field in fields(Recipe)}
    return values
