"""HR images by themselves: read, and checked for what a generator of such images needs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform

from bundle.errors import InputError, whole
from bundle.io import check_labels, read_images
from bundle.metrics import statistics
from bundle.transforms.downsample import coarse_labels
from bundle.transforms.slices import check_axes


class LoadImagesd(MapTransform):
    """Reads label images, which must be of one size, at least two, and all hold the same phases.

    Args:
        keys: entries that hold files, a folder or a pattern; each becomes a list of (row, column) uint8 label images.
        phases: names of the labels.
        table: file value -> label, or None.
        pixel_size: µm, a number or [row, column]; overrides what the files say.
        edge: pixels of the crops that are taken from them.
        coarsening: pixels an edge that become one, by their majority (`coarse_labels`); 1 leaves the images as they are. What fills no block at
            an image's end is cut away.
        symmetries: that may turn crops (see `allowed_symmetries`).
    """

    def __init__(
        self,
        keys: KeysCollection,
        phases: Sequence[str],
        table: Mapping | None = None,
        pixel_size: float | Sequence[float] | None = None,
        edge: int = 1,
        coarsening: int = 1,
        symmetries: int = 4,
    ):
        super().__init__(keys)
        self.phases, self.table, self.pixel_size, self.edge = list(phases), table, pixel_size, edge
        self.symmetries, self.coarsening = symmetries, whole(coarsening, "coarsening", "pixels", 1)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the dictionary with the images, under `pixel_size` their pixel size (row, column) in µm (that of the coarse ones), or None, and
        under `statistics` the means of their volume fractions and interfacial areas (1/pixel), as `bundle.metrics.statistics` orders them.

        Raises:
            InputError: unreadable, fewer than 2 images, of several sizes, smaller than a crop, labels outside the table, a phase that
                one of them lacks, or pixels that the symmetries would turn into others.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            name = f"hr_images ({result[key]})"
            arrays, size = read_images(result[key], self.pixel_size)
            check_axes(self.symmetries, size or (1.0,), f"the pixels of {name}")
            result["pixel_size"] = size and tuple(self.coarsening * edge for edge in size)
            images = [check_labels(array, len(self.phases), name, self.table, "hr_labels") for array in arrays]
            if self.coarsening > 1:
                smallest = min(images, key=lambda image: min(image.shape)).shape
                if min(smallest) < self.coarsening:
                    raise InputError(f"{name}: {smallest[0]} x {smallest[1]} pixels hold no block of {self.coarsening}; lower coarsening")
                images = [coarse_labels(image, len(self.phases), self.coarsening) for image in images]
            self._check(images, name)
            result[key] = images
            result["statistics"] = [float(mean) for mean in np.mean([statistics(image, len(self.phases)) for image in images], 0)]
        return result

    def _check(self, images: Sequence[np.ndarray], name: str) -> None:
        if len(images) < 2:
            raise InputError(f"{name}: one image; a generator that knows one learns it by heart: give 2 or more")
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            shown = ", ".join(f"{h} x {w}" for h, w in sorted(sizes))
            raise InputError(f"{name}: images of several sizes ({shown} pixels); cut them to one size, so that each counts alike")
        (size,) = sizes
        coarse = f", {self.coarsening} made one by coarsening" if self.coarsening > 1 else ""
        if min(size) < self.edge:
            raise InputError(f"{name}: images of {size[0]} x {size[1]} pixels, smaller than a crop of {self.edge}{coarse}; lower resolution, or use larger images")
        for i, image in enumerate(images):
            lacking = [phase for label, phase in enumerate(self.phases) if not (image == label).any()]
            if lacking:
                text = f"{name}: image {i + 1} of {len(images)} lacks {' and '.join(lacking)}"
                raise InputError(f"{text}; every image must hold every phase: leave it out, or correct phases and hr_labels")
