"""From files to label arrays in memory: phases and planes of a training, HR images, and whether the LR volume is large enough."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from bundle.errors import NULL, InputError
from bundle.io import check_labels, read_images
from bundle.io.scale import check_one_set, check_ratio
from bundle.transforms.slices import check_axes

logger = logging.getLogger(__name__)

PLANE_AXES = {"xy": (1, 2), "xz": (0, 2), "yz": (0, 1)}
"""Plane -> axes (of z, y, x) of its images' rows and columns."""


def check_phases(phases: Sequence[str], lr_phases: Sequence[str] | None) -> list[str]:
    """The phases that the LR volume knows: the first of `phases`, all of them where nothing is said.

    Raises:
        InputError: more LR phases than HR phases, or others than the first.
    """
    lr_phases = list(phases if lr_phases is None else lr_phases)
    if len(lr_phases) > len(phases):
        raise InputError(f"the HR images have {len(phases)} phases, fewer than the {len(lr_phases)} of the LR volume; name every LR phase in phases")
    if lr_phases != list(phases[: len(lr_phases)]):
        raise InputError(f"lr_phases {lr_phases} must be the first of phases {list(phases)}, in the same order; reorder phases and hr_labels")
    return lr_phases


def plane_groups(hr_images: Any, symmetries: int = 4) -> dict[str, list[str]]:
    """Which planes a set of HR images teaches: all three ("hr"), or one set a plane ("hr_xy", …) where the rock is anisotropic.

    Raises:
        InputError: a mapping whose keys are not xy, xz and yz, or one with 8 `symmetries`, which turn planes into each other.
    """
    if not isinstance(hr_images, Mapping):
        return {"hr": list(PLANE_AXES)}
    if set(hr_images) != set(PLANE_AXES):
        raise InputError(f"hr_images: has the planes {', '.join(map(str, hr_images))}; give one set of images, or one for each of xy, xz and yz")
    if symmetries == 8:
        raise InputError("symmetries: 8 turns the planes into each other, but hr_images has a set for each; set symmetries to 4")
    return {f"hr_{plane}": [plane] for plane in PLANE_AXES}


def label_of(phase: str, names: Sequence[str], key: str) -> int:
    """Label of a phase that a setting names.

    Raises:
        InputError: no label has that name.
    """
    if phase not in names:
        raise InputError(f"{key}: {phase} is none of {', '.join(names)}; correct the name, or give {NULL}")
    return list(names).index(phase)


def tell_absent(phases: Sequence[str], fractions: Sequence[float]) -> None:
    """Warns of phases of which the HR images hold nothing, by their volume fractions."""
    absent = [phase for phase, fraction in zip(phases, fractions) if not fraction]
    if absent:
        logger.warning(f"no HR image holds {', '.join(absent)}: training cannot learn what it looks like")


def training_files(lr_image: str, hr_images: Any) -> dict[str, Any]:
    """What the loading transforms start from: the LR file under `image`, the HR files under each plane group."""
    groups = plane_groups(hr_images)
    one_set = not isinstance(hr_images, Mapping)
    return {"image": lr_image, **{group: hr_images if one_set else hr_images[planes[0]] for group, planes in groups.items()}}


class LoadSlicesd(MapTransform):
    """Reads the HR images of each plane group and checks their labels and pixel size against the LR volume.

    Args:
        groups: plane group -> planes, as `plane_groups` gives; its keys are the entries that hold files.
        image: entry of the LR volume, loaded before: a MetaTensor whose affine has the voxel size.
        n_phases: labels that the images may hold.
        scale_factor: LR voxel size / HR pixel size.
        table: file value -> label, or None.
        pixel_size: µm, a number, (row, column) or (z, y, x); overrides what the files say.
        edge: pixels of the largest crop that is taken from them.
        symmetries: that may turn patches and crops (see `allowed_symmetries`).

    Each entry becomes a list of (row, column) uint8 label images.

    Raises:
        InputError: unreadable, wrong labels, a pixel size that does not fit the scale factor, an image smaller than a crop, voxels that the symmetries
            would turn into others, or voxels that are no cubes where one set of images teaches all planes.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[str]],
        image: str,
        n_phases: int,
        scale_factor: int,
        table: Mapping | None = None,
        pixel_size: float | Sequence[float] | None = None,
        edge: int = 1,
        symmetries: int = 4,
    ):
        super().__init__(list(groups))
        self.groups, self.image, self.n_phases, self.scale_factor = groups, image, n_phases, scale_factor
        self.table, self.pixel_size, self.edge, self.symmetries = table, pixel_size, edge, symmetries

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the dictionary with the images in place of the files."""
        result = dict(data)
        voxel = result[self.image].pixdim
        check_axes(self.symmetries, [float(edge) for edge in voxel], "the voxels of lr_image")
        for group, planes in self.groups.items():
            name = f"hr_images ({result[group]})"
            if len(planes) > 1:  # whatever size the images tell, or none
                check_one_set([float(edge) for edge in voxel], "LR", name)
            images, pixel = read_images(result[group], self.pixel_size, PLANE_AXES[planes[0]] if len(planes) == 1 else None)
            smallest = min(images, key=lambda image: min(image.shape))
            if min(smallest.shape) < self.edge:  # now, before a run begins to write
                raise InputError(f"{name}: an image of {smallest.shape} pixels, but the critics' crops take {self.edge}; use larger images or smaller boxes")
            if pixel is None:
                logger.warning("%s: tell no pixel size; taken to be as large as SR voxels: set hr_voxel_size to check it", name)
            else:
                for plane in planes:
                    check_ratio([float(voxel[axis]) for axis in PLANE_AXES[plane]], pixel, self.scale_factor, name)
            result[group] = [check_labels(image, self.n_phases, name, self.table, "hr_labels") for image in images]
        return result


class CheckEdged(MapTransform):
    """Refuses a volume that is smaller than the core of a training patch.

    Args:
        keys: entries to check, (C, z, y, x).
        edge: voxels that every axis must have.
    """

    def __init__(self, keys: KeysCollection, edge: int):
        super().__init__(keys)
        self.edge = edge

    def __call__(self, data: Mapping[Hashable, MetaTensor]) -> Mapping[Hashable, MetaTensor]:
        """Returns the dictionary as it is.

        Raises:
            InputError: an axis is shorter.
        """
        for key in self.key_iterator(data):
            shape = tuple(data[key].shape[1:])
            if min(shape) < self.edge:
                name = data[key].meta.get("filename_or_obj", key)
                raise InputError(f"{name}: {shape} LR voxels to train on, but the core of a patch takes {self.edge} along each axis; use more, or smaller boxes")
        return data
