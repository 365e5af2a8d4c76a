"""Are the single voxels of a scan right, or has a segmentation made or lost them? The images tell, at the scan's voxel size."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

from bundle.errors import switch
from bundle.transforms.downsample import coarse_labels

logger = logging.getLogger(__name__)

ALIKE = 2.0
"""Times that a scan may have more or fewer lone voxels than the images, and still be made of samples. Volumes that were sub-sampled, or are majorities, have .9 to
1.3 times as many (fuel cell, Berea and cathode of docs/results.md and docs/experiments.md), segmented micro-CT, whose optics average, a hundredth to two fifths."""


def lone_share(images: Iterable[np.ndarray]) -> float | None:
    """Share of the pixels of label images (y, x), but those at the border, that another label outweighs once all labels are blurred by a pixel.

    The blur is binomial, 1 2 1 along each axis. None where no image has a pixel within.
    """
    lone = total = 0
    for image in images:
        own, most = (np.zeros(image.shape, np.uint8) for _ in range(2))
        for label in np.unique(image):
            here = image == label
            amount = ndimage.convolve(here.astype(np.uint8), np.outer((1, 2, 1), (1, 2, 1)), mode="constant")
            own[here] = amount[here]
            np.maximum(most, amount, out=most)
        inner = (own < most)[1:-1, 1:-1]
        lone, total = lone + int(inner.sum()), total + inner.size
    return lone / total if total else None


def believed(labels: np.ndarray, images: Sequence[np.ndarray], scale_factor: int, lone_voxels: bool | str | None = None) -> bool:
    """Whether what is as small as a voxel of the scan is right, so that the generator should see it as it is.

    Args:
        labels: of the scan, (z, y, x).
        images: HR labels, (y, x).
        scale_factor: HR pixels along the edge of an LR voxel.
        lone_voxels: True, False or one of the words; None: where its sections have as many lone voxels as the images, made as coarse, within `ALIKE`.

    Raises:
        InputError: `lone_voxels` is none of them.
    """
    if lone_voxels is not None:
        return switch(lone_voxels, "lone_voxels")
    n_phases = max(int(image.max()) for image in images) + 1
    wanted = lone_share(coarse_labels(image, n_phases, scale_factor) for image in images)
    found = lone_share(section for axis in range(3) for section in np.moveaxis(labels, axis, 0)[::4])
    if not wanted or found is None or not 1 / ALIKE <= found / wanted <= ALIKE:
        return False
    logger.info(
        "lone_voxels: the scan has as many as the images at its voxel size (%.1f and %.1f %% of the pixels): they are believed", 100 * found, 100 * wanted
    )
    return True
