"""A part of each HR image that no training sees, to tell whether the critics know the rest by heart."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from bundle.errors import InputError

HELD_OUT = "held_out"
"""Entry of what is held out: {key: strips}; empty where nothing is."""


class HoldOutd(MapTransform):
    """Cuts a strip off the end of the longer axis of each HR image, and keeps the strips under `HELD_OUT`.

    Args:
        keys: entries, each a list of (y, x) label images.
        share: of each image, 0 to 0.9; 0 holds nothing out.
        edge: pixels of the largest crop that is taken of a strip and of the rest.

    Raises:
        InputError: no share, or an image of which strip or rest is smaller than a crop.
    """

    def __init__(self, keys: KeysCollection, share: float, edge: int):
        super().__init__(keys)
        if not isinstance(share, (int, float)) or not 0 <= share <= 0.9:
            raise InputError(f"held_out: {share} is no share of an HR image; give 0 (nothing) to 0.9, such as 0.3")
        self.share, self.edge = float(share), edge

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the dictionary with the rest in place of the images."""
        result: dict[Hashable, Any] = dict(data) | {HELD_OUT: {}}
        for key in self.key_iterator(data) if self.share else ():
            kept, strips = zip(*(self._cut(image) for image in data[key]))
            result[key], result[HELD_OUT][key] = list(kept), list(strips)
        return result

    def _cut(self, image: Any) -> tuple[Any, Any]:
        """Rest and strip."""
        axis = int(image.shape[1] > image.shape[0])
        length = image.shape[axis]
        strip = round(self.share * length)
        if min(strip, length - strip) < self.edge:
            name = f"an HR image of {image.shape} pixels"
            if 2 * self.edge > length:
                raise InputError(f"held_out: {name} is too small to hold a crop of {self.edge} out; give larger images, smaller boxes, or 0")
            least = math.ceil(100 * self.edge / length) / 100
            raise InputError(
                f"held_out: {self.share:g} of {name} leaves {length - strip} and {strip} of {length}, but the critics' crops take {self.edge}; "
                f"give {least:g} to {1 - least:g}, larger images, or 0"
            )
        kept, cut = (image[: length - strip], image[length - strip :]) if axis == 0 else (image[:, : length - strip], image[:, length - strip :])
        return kept, cut
