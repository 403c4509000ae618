"""A line says how tiles are augmented, and is refused with what there is."""

from __future__ import annotations

import pytest

from slideduck.errors import ConfigError
from slideduck.runner.settings.recipe import PRESETS, Recipe, parse_recipe

ITEMS = (
    "none, d4, standard, strong, or a list of d4, crop:PART, stain:STRENGTH, colour:STRENGTH, brightness:STRENGTH, "
    "contrast:STRENGTH, saturation:STRENGTH, hue:TURN, blur:PART[:SIGMA], sharpen:PART[:AMOUNT], jpeg:PART[:QUALITY]"
)


def test_a_list_sets_what_it_names_in_any_order() -> None:
    recipe = Recipe(
        d4=True, crop=0.8, stain=0.05, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.01, blur=0.3, jpeg=0.3,
        jpeg_quality=60,
    )  # fmt: skip
    assert parse_recipe("hue:0.01,d4,colour:0.2,stain:0.05,blur:0.3,jpeg:0.3:60,crop:0.8") == recipe
    assert parse_recipe("jpeg:0.3:60, crop:0.8, blur:0.3, stain:0.05, colour:0.2, d4, hue:0.01") == recipe


def test_presets_are_lists_and_what_follows_takes_their_place() -> None:
    assert parse_recipe("none") == Recipe()
    assert parse_recipe("d4") == Recipe(d4=True)
    assert parse_recipe("strong") == parse_recipe(PRESETS["strong"])
    assert parse_recipe("strong,stain:0,jpeg:1") == parse_recipe(
        PRESETS["strong"].replace("stain:0.2", "stain:0").replace("jpeg:0.3:30", "jpeg:1:30")
    )
    assert Recipe().is_nothing
    assert not parse_recipe("d4").is_nothing
    assert parse_recipe("crop:1,stain:0,colour:0,blur:0,sharpen:0,jpeg:0").is_nothing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("all", f"there is no augmentation 'all'; it must be one of {ITEMS}"),
        ("", f"there is no augmentation ''; it must be one of {ITEMS}"),
        ("d4,", f"there is no augmentation ''; it must be one of {ITEMS}"),
        ("d4,standard", f"there is no augmentation 'standard'; it must be one of {ITEMS}"),
        ("blur:0.1,d4,blur:0.2", "blur is there twice; give it once"),
        ("d4:1", "d4 takes no number"),
        ("crop", "crop must be written crop:PART"),
        ("jpeg", "jpeg must be written jpeg:PART[:QUALITY]"),
        ("hue:0.1:2", "hue must be written hue:TURN"),
        ("stain:much", "stain: the strength is 'much'; it must be a number from 0 to 1"),
        ("stain:nan", "stain: the strength is 'nan'; it must be a number from 0 to 1"),
        ("stain:-0.1", "stain: the strength is '-0.1'; it must be a number from 0 to 1"),
        ("crop:0.01", "crop: the least part that is kept is '0.01'; it must be a number from 0.05 to 1"),
        ("blur:2", "blur: the part of the tiles is '2'; it must be a number from 0 to 1"),
        ("blur:1:0", "blur: the deviation in pixels is '0'; it must be a number above 0 and at most 20"),
        ("jpeg:1:50.5", "jpeg: the lowest quality is '50.5'; it must be a whole number from 1 to 95"),
        ("jpeg:1:inf", "jpeg: the lowest quality is 'inf'; it must be a whole number from 1 to 95"),
    ],
)
def test_what_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_recipe(text)
    assert str(error.value) == f"augment is {text!r}: {message}"


def test_none_stands_alone() -> None:
    with pytest.raises(ConfigError) as error:
        parse_recipe("none,d4")
    assert str(error.value) == "augment is 'none,d4': none stands alone; leave it out, or what follows it"
