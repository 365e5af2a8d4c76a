"""Which pores lead through the sample, and the checks that all of its physics share. Volumes are (z, y, x)."""

import itertools

import numpy as np
from scipy import ndimage

from bundle.errors import InputError


def check_volume(array: np.ndarray, axis: int = 0, what: str = "labels") -> np.ndarray:
    """The array itself, where it is a filled 3D volume that has the axis.

    Raises:
        InputError: something else.
    """
    array = np.asarray(array)
    if array.ndim != 3 or array.size == 0:
        raise InputError(f"{what} has shape {array.shape}: physics needs a filled 3D volume (z, y, x); an image does not tell it")
    if axis not in (0, 1, 2):
        raise InputError(f"axis {axis}: axes are 0 (z), 1 (y) and 2 (x)")
    return array


def percolating(pore: np.ndarray, axis: int, periodic: bool = False) -> np.ndarray:
    """Pores that are part of a path through the sample along an axis, neighbours sharing a face.

    Args:
        pore: bool (z, y, x).
        axis: 0, 1 or 2.
        periodic: the volume repeats itself along all axes; then a path must lead from a voxel to its own image along the axis. Otherwise it
            must lead from the first plane to the last.

    Returns:
        bool of the same shape.
    """
    labels, n = ndimage.label(pore)
    if periodic:
        keep = _winding(labels, n, axis)
    else:
        keep = np.intersect1d(labels.take(0, axis), labels.take(-1, axis))
    kept = np.zeros(n + 1, bool)
    kept[keep[keep > 0]] = True
    return kept[labels]


def _winding(labels: np.ndarray, n: int, axis: int) -> np.ndarray:
    """Labels (1 to n) that wind around the axis once the opposite faces of the volume are joined.

    Every label gets a height, the number of periods climbed to reach it; a label that is reached at two heights winds, and so does all that is
    joined to it.
    """
    neighbours: list[list[tuple[int, int]]] = [[] for _ in range(n + 1)]
    for a in range(3):
        last, first = labels.take(-1, a).ravel(), labels.take(0, a).ravel()
        touch = (last > 0) & (first > 0)
        for below, above in np.unique(np.stack([last[touch], first[touch]], 1), axis=0).tolist():
            climb = int(a == axis)
            neighbours[below].append((above, climb))
            neighbours[above].append((below, -climb))
    height: dict[int, int] = {}
    winding: list[int] = []
    for start in range(1, n + 1):
        if start in height:
            continue
        height[start], group, winds = 0, [start], False
        for label in group:  # grows while it is gone through
            for other, climb in neighbours[label]:
                if other not in height:
                    height[other] = height[label] + climb
                    group.append(other)
                winds |= height[other] != height[label] + climb
        winding += itertools.compress(group, itertools.repeat(winds))
    return np.array(winding, int)
