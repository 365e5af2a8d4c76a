"""Sections of a volume at 45 degrees to its axes, which no training ever saw: what is right on the axis planes alone shows here.

The plane holds one axis of the volume and the diagonal of the other two, so of isotropic voxels it meets a row at every voxel along the axis
but only one row every sqrt 2 voxels along the diagonal: rows lie exactly in the plane, none beside it. On a square grid of one voxel,
nearest neighbour, about three rows in ten come twice, and faces between pixels are no longer those of an image. So SR at 45 degrees must not be
compared with HR images as they are (a classifier tells even the same rock apart at once), but with `oblique_reference`: HR images
sampled at rows sqrt 2 pixels apart and spread to one pixel in the same way. What remains is that an image has a pixel only within half a pixel of
such a row, which moves the row but not what was seen in it. Turning the image by 45 degrees would resample both of its axes, the section
only one.
"""

from collections.abc import Callable, Sequence

import numpy as np

from bundle.errors import InputError
from bundle.io.volume import cube_edge
from bundle.metrics.fractions import Labels, as_arrays
from bundle.metrics.two_sample import FOLDS, parts

SQRT2 = float(np.sqrt(2))


def oblique_slices(
    volume: np.ndarray, number: int, edge: int, seed: int = 0, voxel_size: float | Sequence[float] = 1.0, folds: int = FOLDS
) -> list[np.ndarray]:
    """Square crops of planes at 45 degrees, nearest neighbour on a grid of the voxel size -> `number` of (edge, edge), the volume's dtype.

    Rows of a crop lie along an axis of the volume, columns along a diagonal of the other two: all six such orientations, drawn evenly, at
    random places where the crop lies inside the volume.

    Args:
        volume: labels (z, y, x).
        number: of crops.
        edge: of a crop, pixels.
        seed: of orientations and places.
        voxel_size: µm, number or (z, y, x).
        folds: the crops come from so many disjoint blocks of the volume one after the other: give `two_sample_auc` the same `folds`, then it
            judges on crops that share no voxel with those it trained on.

    Raises:
        InputError: voxels are not cubes, or a block has no room for a crop.
    """
    cube_edge(voxel_size, "a plane at 45 degrees")
    if volume.ndim != 3:
        raise InputError(f"planes at 45 degrees need a volume (z, y, x), got shape {tuple(volume.shape)}")
    return _crops(parts(volume, folds, 1), number, edge, np.random.default_rng(seed), _from_volume)


def oblique_reference(images: Labels, number: int, edge: int, seed: int = 0, folds: int = FOLDS) -> list[np.ndarray]:
    """Crops of HR images resampled as `oblique_slices` resamples SR, one axis of the image as the diagonal -> `number` of (edge, edge).

    Args:
        images: labels (y, x), of the same pixel size as SR.
        number: of crops.
        edge: of a crop, pixels.
        seed: of axes and places.
        folds: see `oblique_slices`.

    Raises:
        InputError: an image, or its part in a fold, has no room for a crop.
    """
    return _crops(parts(as_arrays(images), folds, 1), number, edge, np.random.default_rng(seed), _from_image)


def check_oblique(volume: np.ndarray, images: Labels, edge: int, folds: int = FOLDS) -> None:
    """Refuses at once a volume or images without room for crops at 45 degrees, which random places would find out late.

    Raises:
        InputError: a block of the volume is thinner than a crop, or a part of an image narrower than its rows reach.
    """
    reach = int(np.floor(SQRT2 * np.floor((edge - 1) / SQRT2 + 1) + 1)) + 1
    for arrays, need in (([volume], edge), (as_arrays(images), reach)):
        for array in (array for part in parts(arrays, folds, 1) for array in part):
            for size in array.shape:
                _start(size, need, array.shape, edge, np.random.default_rng(0))


def _crops(places: Sequence[list[np.ndarray]], number: int, edge: int, rng: np.random.Generator, draw: Callable) -> list[np.ndarray]:
    """`number` crops, the places one after the other, as `parts` divides a list: one on another in an array they would be a volume to it."""
    crops = []
    for arrays, share in zip(places, np.array_split(np.arange(number), len(places)), strict=True):
        sizes = np.array([array.size for array in arrays], float)
        crops += [draw(arrays[choice], edge, rng) for choice in rng.choice(len(arrays), len(share), p=sizes / sizes.sum())]
    return crops


def _from_volume(volume: np.ndarray, edge: int, rng: np.random.Generator) -> np.ndarray:
    planes = np.moveaxis(volume, rng.integers(3), 0)  # (along the axis, diagonal, diagonal)
    if rng.integers(2):
        planes = planes[:, :, ::-1]
    row = _nearest_row(edge, rng)
    spans = (edge, row[-1] + 1, row[-1] + 1)
    along, first, second = (_start(size, span, volume.shape, edge, rng) for size, span in zip(planes.shape, spans, strict=True))
    return planes[along : along + edge, first + row, second + row]


def _from_image(image: np.ndarray, edge: int, rng: np.random.Generator) -> np.ndarray:
    lines = image.T if rng.integers(2) else image
    row = np.floor(SQRT2 * _nearest_row(edge, rng) + rng.random()).astype(int)
    along, across = (_start(size, span, image.shape, edge, rng) for size, span in zip(lines.shape, (edge, row[-1] + 1), strict=True))
    return lines[along : along + edge, across + row]


def _nearest_row(edge: int, rng: np.random.Generator) -> np.ndarray:
    """Of rows sqrt 2 apart the nearest to each of `edge` pixels 1 apart, from a random position between two rows -> (edge,)."""
    return np.floor(np.arange(edge) / SQRT2 + rng.random()).astype(int)


def _start(size: int, span: int, shape: Sequence[int], edge: int, rng: np.random.Generator) -> int:
    if size < span:
        raise InputError(f"a part of shape {tuple(shape)} has no room for crops of {edge} at 45 degrees: smaller edge or fewer folds")
    return int(rng.integers(size - span + 1))
