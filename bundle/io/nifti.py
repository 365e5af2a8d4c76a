"""NIfTI by nibabel: axes (x, y, z) in the file, (z, y, x) here."""

import logging
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from bundle.errors import InputError
from bundle.io.atomic import atomic_path
from bundle.io.raw import write_voxels
from bundle.io.volume import Volume, micrometres, upright

logger = logging.getLogger(__name__)

NIFTI_MAX_AXIS = 32767  # NIfTI-1 keeps lengths as 16-bit integers


def open_nifti(path: Path) -> Volume:
    """A NIfTI-1 or -2 file, the voxels of a .nii read when they are asked for; those of a .nii.gz at once, as gzip has no places.

    The file's unit (`xyzt_units`: micron, mm, meter) is honoured. A file whose unit is unknown has no voxel size: its
    numbers may be mm, as is usual in medicine, or µm, as is usual for rock, and a guess could be wrong by 1000.
    """
    image = nib.load(path)
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    voxels = image.dataobj
    if path.suffix.lower() == ".nii" and len(shape) == 3 and len(image.shape) == 3:
        array = _Transposed(voxels)
    else:
        array = np.asanyarray(voxels).reshape(shape, order="F").T
    unit = micrometres(image.header.get_xyzt_units()[0])
    if unit is None or len(shape) != 3:
        return Volume(array)
    affine = image.affine
    if not image.header["sform_code"] and not image.header["qform_code"]:  # only sizes are told: nibabel would put 0 into the middle of the volume
        affine = np.diag([*image.header.get_zooms()[:3], 1.0])
    size, origin, signs = upright(affine[:3, :3] * unit, affine[:3, 3] * unit)
    if signs is None:
        logger.warning("%s: its axes are turned in space; the voxels are taken in file order and the direction and origin dropped", path)
    return Volume(array, size[::-1], origin[::-1], signs and signs[::-1])


class _Transposed:
    """nibabel's array on disk (x, y, z) as (z, y, x)."""

    def __init__(self, proxy: nib.arrayproxy.ArrayProxy):
        self._proxy = proxy
        self.shape, self.ndim, self.size = proxy.shape[::-1], proxy.ndim, int(np.prod(proxy.shape))
        self.dtype = self[0:1, 0:1, 0:1].dtype  # a slope in the header makes floating point of it

    def __getitem__(self, box: tuple[slice, slice, slice]) -> np.ndarray:
        return np.asanyarray(self._proxy[box[::-1]]).T


def check_nifti_shape(path: Path, shape: Sequence[int]) -> None:
    """Whether NIfTI holds the volume.

    Raises:
        InputError: an axis of more than 32767 voxels.
    """
    if max(shape) > NIFTI_MAX_AXIS:
        raise InputError(f"{path}: an axis of {max(shape)} voxels; NIfTI holds {NIFTI_MAX_AXIS} at most: write .tif or .mhd")


def write_nifti(path: Path, volume: Volume) -> None:
    """Write NIfTI-1 (.nii or .nii.gz) in microns; an axis of which nobody said where it runs is written forward.

    Raises:
        InputError: as `check_nifti_shape`.
    """
    check_nifti_shape(path, volume.array.shape)
    affine = np.eye(4)
    affine[:3] = np.diag((volume.signs or (1, 1, 1))[::-1]) @ volume.affine[[2, 1, 0]][:, [2, 1, 0, 3]]
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(volume.array.dtype)
    header.set_data_shape(volume.array.shape[::-1])
    header.set_qform(affine, code="scanner")
    header.set_sform(affine, code="scanner")
    header.set_xyzt_units("micron" if volume.voxel_size else "unknown")
    header["magic"], header["vox_offset"] = b"n+1", 352
    header.set_slope_inter(1, 0)
    with atomic_path(path) as temporary, nib.openers.ImageOpener(str(temporary), "wb") as file:
        file.write(header.binaryblock + bytes(4))  # no extensions
        write_voxels(file, volume.array)  # the file's order, x first, is that of a (z, y, x) array
