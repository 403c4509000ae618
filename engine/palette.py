"""The colours of labels: the same for the same labels in every picture, page and file that is written."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable

__all__ = ["PALETTE", "label_colours"]

#: The first eight are colours that readers with any colour vision tell apart: B. Wong, Points of view: Color
#: blindness, Nature Methods 8, 441 (2011), after M. Okabe and K. Ito; the order is ours, for tissue that is pink.
#: The others are those that differ most from them, and from each other, in CIELAB: as they are, thin over pink
#: tissue, and as readers without green cones see them.
PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#F0E442", "#000000", "#CC79A7",
    "#332288", "#DDCC77", "#882255", "#00E5E5", "#556B2F", "#FFC9A3", "#7B4FD0", "#5B2C0C",
)  # fmt: skip


def label_colours(labels: Iterable[str]) -> dict[str, str]:
    """Return a colour for each label, the same for the same labels whatever their order.

    Parameters
    ----------
    labels : iterable of str
        All labels that are to be told apart, such as those of a whole study.

    Returns
    -------
    dict of str to str
        ``#RRGGBB`` by label, in sorted order. After those of `PALETTE` they come again, paler.
    """
    colours = {}
    for i, label in enumerate(sorted(set(labels))):
        again, place = divmod(i, len(PALETTE))
        red, green, blue = (int(PALETTE[place][at : at + 2], 16) / 255 for at in (1, 3, 5))
        hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
        light = 1 - (1 - light) * 0.6**again
        channels = colorsys.hls_to_rgb(hue, light, saturation)
        colours[label] = "#" + "".join(f"{round(channel * 255):02X}" for channel in channels)
    return colours
