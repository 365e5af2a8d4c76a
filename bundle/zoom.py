"""Parts of LR, SR and HR sections to be shown enlarged: the same place of scan and result, where the most is to be seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Slices = Mapping[str, np.ndarray]
LEAST = 2  # LR voxels along the edge of a part


def busiest(labels: np.ndarray, shape: tuple[int, int], step: int = 1) -> tuple[int, int]:
    """First pixel (row, column) of the window with the most faces between phases, at multiples of `step`; the first of several.

    Args:
        labels: (rows, columns).
        shape: of the window, not larger.
        step: pixels.
    """
    faces = np.zeros(labels.shape, np.uint8)
    faces[:, 1:] += labels[:, 1:] != labels[:, :-1]
    faces[1:] += labels[1:] != labels[:-1]
    total = np.zeros([n + 1 for n in labels.shape], np.uint32)  # two a pixel: up to 46,000 pixels a side
    total[1:, 1:] = faces
    for axis in (0, 1):
        np.cumsum(total, axis, np.uint32, out=total)
    h, w = shape
    first, last = (slice(None, -n or None, step) for n in shape), (slice(n, None, step) for n in shape)
    (top, left), (bottom, right) = first, last
    count = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    row, column = np.unravel_index(count.argmax(), count.shape)
    return int(row) * step, int(column) * step


def enlarged(lr: Slices, sr: Slices, hr: Slices, scale: int, factor: int) -> tuple[Slices, Slices, Slices]:
    """Parts `factor` times smaller along each side, or 2 LR voxels: of LR and SR the busiest place of SR, of an HR image its own.

    Args:
        lr, sr: plane -> labels (rows, columns), the second `scale` times finer.
        hr: plane -> an image of SR's pixel size; planes may be missing. One that is smaller than the part is shown whole.
        scale: SR pixels along the edge of an LR voxel.
        factor: of the enlargement.
    """
    parts: tuple[dict, dict, dict] = ({}, {}, {})
    for plane, coarse in lr.items():
        shape = tuple(min(n, max(LEAST, n // factor)) for n in coarse.shape)
        fine = tuple(scale * n for n in shape)
        row, column = busiest(sr[plane], fine, scale)
        parts[0][plane] = coarse[row // scale :, column // scale :][: shape[0], : shape[1]]
        parts[1][plane] = sr[plane][row:, column:][: fine[0], : fine[1]]
        if plane in hr:
            image = hr[plane]
            row, column = busiest(image, tuple(min(pair) for pair in zip(fine, image.shape)))
            parts[2][plane] = image[row:, column:][: fine[0], : fine[1]]
    return parts
