"""Are the single voxels of a scan right, or has a segmentation made or lost them? The images tell, at the scan's voxel size."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

from bundle.errors import switch
from bundle.transforms.downsample import coarse_labels

logger = logging.getLogger(__name__)

MOST = 1.5
"""Times that a scan may have more lone voxels than the sampled images: more than that is noise."""
ENOUGH = 100
"""Images, and sections of the scan along an axis, evenly taken of all, that are counted at most: of thousands it would take minutes."""
APART = 4
"""Voxels between the sections of a scan at least: neighbours are alike."""


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

    Optics average over a voxel and more, which leaves few lone voxels; a volume that was sub-sampled has as many as the images have when they are sampled.

    Args:
        labels: of the scan, (z, y, x).
        images: HR labels, (y, x).
        scale_factor: HR pixels along the edge of an LR voxel.
        lone_voxels: True, False or one of the words; None: where the share of lone voxels in the sections is nearer to that of the images of which every
            `scale_factor`-th pixel is taken than to that of their block majorities, by ratio, and no more than `MOST` times it.

    Raises:
        InputError: `lone_voxels` is none of them.
    """
    if lone_voxels is not None:
        return switch(lone_voxels, "lone_voxels")
    images = images[:: -(-len(images) // ENOUGH)]
    n_phases, middle = max(int(image.max()) for image in images) + 1, scale_factor // 2
    sampled = lone_share(image[middle::scale_factor, middle::scale_factor] for image in images)
    averaged = lone_share(coarse_labels(image, n_phases, scale_factor) for image in images)
    found = lone_share(section for axis in range(3) for section in np.moveaxis(labels, axis, 0)[:: max(APART, -(-labels.shape[axis] // ENOUGH))])
    if not sampled or not found or averaged is None or not (sampled * averaged) ** 0.5 <= found <= MOST * sampled:
        return False
    logger.info(
        "lone_voxels: the scan has as many as the images where they are sampled (%.1f and %.1f %% of the pixels): they are believed",
        100 * found, 100 * sampled,
    )  # fmt: skip
    return True
