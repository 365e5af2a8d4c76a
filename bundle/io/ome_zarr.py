"""OME-Zarr (0.3 to 0.5): the finest level of an image or label image, read where it is sliced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bundle.errors import InputError
from bundle.io.volume import Volume, micrometres, significant

KINDS = {"t": "time", "c": "channel"}  # of axes whose metadata tell only the name; the others are of space


def open_ome_zarr(path: Path) -> Volume:
    """A folder that holds an OME-Zarr multiscale image, or a single zarr array without a voxel size.

    Time and channel axes of length 1 are left out; axes that are named z, y and x are brought into this order.

    Raises:
        InputError: neither of the two; more than one time or channel.
    """
    import zarr  # takes a moment to import

    found = zarr.open(str(path), mode="r")
    if isinstance(found, zarr.Array):
        return Volume(found)
    attributes = dict(found.attrs)
    scales = attributes.get("ome", attributes).get("multiscales")
    if not scales:
        raise InputError(f"{path}: holds no OME-Zarr image; give the folder in it that has multiscales, such as 0 or labels/<name>")
    image, dataset = scales[0], scales[0]["datasets"][0]
    array, axes = found[dataset["path"]], [{"name": axis} if isinstance(axis, str) else axis for axis in image["axes"]]  # 0.3 has names alone
    transformations = [*dataset.get("coordinateTransformations", []), *image.get("coordinateTransformations", [])]
    size, origin = np.ones(len(axes)), np.zeros(len(axes))
    for one in transformations:
        if one["type"] == "scale":
            size, origin = size * one["scale"], origin * one["scale"]
        elif one["type"] == "translation":
            origin = origin + one["translation"]
    spatial = [i for i, axis in enumerate(axes) if (axis.get("type") or KINDS.get(axis.get("name"), "space")) == "space"]
    places = {axes[i].get("name"): i for i in spatial}
    if places.keys() == {"z", "y", "x"}:
        spatial = [places[name] for name in "zyx"]
    if any(n > 1 for i, n in enumerate(array.shape) if i not in spatial):
        raise InputError(f"{path}: shape {array.shape}; one volume is needed: give one of a single time and channel")
    units = [micrometres(axes[i].get("unit") or "") for i in spatial]
    voxels = array if spatial == list(range(array.ndim)) else _Spatial(array, spatial)
    if None in units:
        return Volume(voxels)
    return Volume(voxels, *(tuple(significant(unit * of[i]) for unit, i in zip(units, spatial)) for of in (size, origin)))


class _Spatial:
    """An array with time and channel axes of length 1, or with its axes in another order, as one of its axes of space, read where it is sliced."""

    def __init__(self, array: Any, spatial: list[int]):
        self._array, self._spatial = array, spatial
        self.shape, self.ndim, self.size, self.dtype = tuple(array.shape[i] for i in spatial), len(spatial), array.size, array.dtype

    def __getitem__(self, box: tuple[slice, slice, slice]) -> np.ndarray:
        place: list[Any] = [0] * self._array.ndim
        for i, part in zip(self._spatial, box):
            place[i] = part
        return np.asarray(self._array[tuple(place)]).transpose([sorted(self._spatial).index(i) for i in self._spatial])
