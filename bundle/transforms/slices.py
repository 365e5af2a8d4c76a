"""Random crops of HR images, and random slices of generated volumes: what the critics compare."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor

from bundle.errors import InputError

PLANES = {"xy": 0, "xz": 1, "yz": 2}
"""Plane -> spatial axis of a (z, y, x) volume that is held constant. A slice keeps the order of the other two: (y, x), (z, x), (z, y)."""

def allowed_symmetries(number: int) -> Sequence[int]:
    """Indices of the symmetries (see `symmetry`) that may turn a plane: 8, all of the square, or 4, mirroring alone, which keeps the two axes apart.

    Raises:
        InputError: another number.
    """
    if number not in (4, 8):
        raise InputError(f"symmetries: {number}; give 8, or 4 where the two axes of a plane differ")
    return range(8) if number == 8 else (0, 2, 5, 7)


def check_axes(symmetries: int, size: Sequence[float], what: str) -> None:
    """Whether symmetries may turn axes of these voxel sizes into each other.

    Args:
        symmetries: 8, which do, or 4, which do not.
        size: µm along each axis.
        what: they are of, for the message.

    Raises:
        InputError: they do, and the sizes differ by more than what programs round.
    """
    if symmetries == 8 and not np.allclose(size, size[0], rtol=0.01):
        sizes = " x ".join(f"{edge:g}" for edge in size)
        raise InputError(f"symmetries: 8 turns the axes into each other, but {what} are of {sizes} µm; set symmetries to 4, or resample to one size")


def symmetry(image: np.ndarray, index: int) -> np.ndarray:
    """One of the 8 symmetries of the square (index 0..7: 4 quarter turns, each with and without transposition)."""
    image = np.rot90(image, index % 4, axes=(-2, -1))
    return image.swapaxes(-2, -1) if index >= 4 else image


class RandSliceCropsd(RandomizableTransform, MapTransform):
    """Replaces a list of 2D label images by one-hot random crops of several sizes.

    Args:
        keys: entries, each a list of (y, x) uint8 label images.
        sizes: crop edges, pixels; one set of crops for each.
        number: crops of each size.
        n_phases: channels of the one-hot result.
        symmetries: that may turn a crop: 8 (all of the square) or 4 (mirroring, where the two axes of the plane differ).

    The result under each key is a list, one float32 tensor (number, n_phases, size, size) for each of `sizes`.

    Raises:
        InputError: an image is smaller than a crop.
    """

    def __init__(self, keys: KeysCollection, sizes: Sequence[int], number: int, n_phases: int, symmetries: int = 8):
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.choices = allowed_symmetries(symmetries)
        self.sizes, self.number, self.n_phases = list(sizes), number, n_phases
        self._known: dict[tuple[Hashable, int], tuple[Sequence[np.ndarray], np.ndarray]] = {}  # images that were asked for last, and `_chances`

    def __call__(self, data: Mapping[Hashable, Sequence[np.ndarray]]) -> dict[Hashable, list[Tensor]]:
        """Returns a copy of the dictionary with the crops in place of the images."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = [self._crops(result[key], size, self._chances_of(key, result[key], size)) for size in self.sizes]
        return result

    def _chances_of(self, key: Hashable, images: Sequence[np.ndarray], size: int) -> np.ndarray:
        """`_chances`, which take longer than the crops where there are thousands of images, once for the same images."""
        known = self._known.get((key, size))
        if known is None or known[0] is not images:
            known = self._known[key, size] = images, self._chances(images, size)
        return known[1]

    @staticmethod
    def _chances(images: Sequence[np.ndarray], size: int) -> np.ndarray:
        """Of each image, by the places that it has for a crop."""
        smallest = min(min(image.shape) for image in images)
        if smallest < size:
            raise InputError(f"hr_images: an image is only {smallest} pixels wide, smaller than the critic's crop of {size}; use larger images or smaller boxes")
        area = np.array([(i.shape[0] - size + 1) * (i.shape[1] - size + 1) for i in images], dtype=float)
        return area / area.sum()

    def _crops(self, images: Sequence[np.ndarray], size: int, chances: np.ndarray) -> Tensor:
        crops = np.empty((self.number, size, size), dtype=np.uint8)
        for n in range(self.number):
            image = images[self.R.choice(len(images), p=chances)]
            y, x = (int(self.R.randint(k - size + 1)) for k in image.shape)
            crops[n] = symmetry(image[y : y + size, x : x + size], self.choices[self.R.randint(len(self.choices))])
        phases = torch.arange(self.n_phases, dtype=torch.uint8)[:, None, None]
        return (torch.from_numpy(crops)[:, None] == phases).float()  # a quarter of the time of one_hot, which counts in int64


def random_slices(volume: Tensor, plane: str, number: int | None = None, border: int = 0) -> Tensor:
    """Slices of a batch of volumes in one plane.

    Args:
        volume: (B, C, D, H, W), spatial axes (z, y, x).
        plane: "xy", "xz" or "yz".
        number: slices of each volume, drawn without replacement; None takes all.
        border: voxels cut away on every side before slicing.

    Returns:
        (B * number, C, h, w).
    """
    if border:
        volume = volume[:, :, border:-border, border:-border, border:-border]
    axis = 2 + PLANES[plane]
    n = volume.shape[axis]
    if number is not None:
        index = torch.randperm(n, device="cpu")[:number].to(volume.device)
        volume = volume.index_select(axis, index)
    return volume.movedim(axis, 1).flatten(0, 1)
