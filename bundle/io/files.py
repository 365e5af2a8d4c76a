"""Read and write a volume in any format, chosen by the suffix."""

import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bundle.errors import InputError, first_line
from bundle.io.itk_formats import read_itk, write_metaimage
from bundle.io.nifti import check_nifti_shape, open_nifti, write_nifti
from bundle.io.ome_zarr import open_ome_zarr
from bundle.io.raw import open_raw, write_raw
from bundle.io.tiff import open_tiff, write_tiff
from bundle.io.volume import Volume, as_voxel_size, significant, size_text

logger = logging.getLogger(__name__)

READERS = {".tif": open_tiff, ".tiff": open_tiff, ".nii": open_nifti, ".nii.gz": open_nifti, ".nrrd": read_itk, ".mha": read_itk,
           ".mhd": read_itk, ".raw": open_raw, ".zarr": open_ome_zarr}  # fmt: skip
WRITERS = {".tif": write_tiff, ".tiff": write_tiff, ".nii": write_nifti, ".nii.gz": write_nifti, ".mha": write_metaimage,
           ".mhd": write_metaimage, ".raw": write_raw}  # fmt: skip
ZARR = (".zattrs", ".zgroup", ".zarray", "zarr.json")  # one of these lies in every folder of a Zarr hierarchy
WRITTEN_DTYPES = ("uint8", "int16", "uint16", "int32", "float32", "float64")


def suffix_of(path: str | Path) -> str:
    """Suffix in lower case, `.nii.gz` as one."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def format_of(path: str | Path) -> str:
    """The suffix that names the format of a file or folder: `.zarr` of a folder that holds Zarr, such as scan.zarr/labels/rock, whatever its name."""
    return ".zarr" if any((Path(path) / name).is_file() for name in ZARR) else suffix_of(path)


def stem_of(path: str | Path) -> str:
    """Name of a file or folder without its suffix, and without `.nii` or `.ome` before that; of Zarr within a hierarchy the whole name."""
    name = Path(path).name
    return re.sub(r"(\.nii|\.ome)?\.[^.]+$", "", name, flags=re.IGNORECASE) if format_of(path) == suffix_of(path) else name


def record_of(path: str | Path) -> Path:
    """The record beside a result that the program made: `<name>_provenance.json`."""
    return Path(path).with_name(f"{stem_of(path)}_provenance.json")


def lone_path(value: Any, name: str) -> Path:
    """A setting that is the path of one volume.

    Args:
        value: as it was given.
        name: of the setting, for the message.

    Raises:
        InputError: something else, such as a list.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise InputError(f"{name}: {value}; one volume is read at a time: give one path")
    return Path(value)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever reading a missing, empty or damaged file raises into one line.

    Raises:
        InputError: always instead of another exception.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if path.is_dir() and format_of(path) != ".zarr":
        raise InputError(f"{path}: not a file; give the file itself, and of a folder of slices save them as one stack")
    if path.is_file() and suffix_of(path) == ".zarr":
        raise InputError(f"{path}: a file; give the folder of the OME-Zarr")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path}: an empty file (0 bytes); copy or export it again")
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # each library has its own exceptions for the same thing
        raise InputError(f"{path}: cannot be read ({first_line(error)}); damaged, incomplete or another format: export it again") from error


def read_volume(path: str | Path, voxel_size: float | Sequence[float] | None = None) -> Volume:
    """Read a 3D volume: `open_volume`, with all of its values in memory and in native byte order."""
    return in_memory(path, open_volume(path, voxel_size))


def in_memory(path: str | Path, volume: Volume, part: tuple[slice, ...] = (slice(None),) * 3) -> Volume:
    """A volume that was opened, or a part of it (slices z, y, x), with its values in memory, in native byte order, and its place.

    Raises:
        InputError: they cannot be read.
    """
    with readable(Path(path)):
        array = np.asarray(volume.array[part])
        array = array.astype(array.dtype.newbyteorder("="))
    first = [axis.indices(n)[0] for axis, n in zip(part, volume.array.shape)]
    origin = tuple(o + v * i for o, v, i in zip(volume.origin, volume.voxel_size or (0.0,) * 3, first))
    return Volume(array, volume.voxel_size, origin, volume.signs)


def open_volume(path: str | Path, voxel_size: float | Sequence[float] | None = None) -> Volume:
    """Open a 3D volume: TIFF stack, NIfTI, NRRD, MHA, MHD, raw with a JSON file, or OME-Zarr.

    Args:
        path: file, whose suffix names the format; of OME-Zarr the folder of the image, which may lie in another.
        voxel_size: µm, a number or (z, y, x); overrides what the file says. Where it is the file's by one factor, as of a wrong unit, the origin is
            taken by that, too; else the origin is dropped.

    Returns:
        Volume whose `array` has a shape, a dtype and gives NumPy arrays for slices along z, y and x. TIFF, .nii, raw and OME-Zarr are read only where
        they are sliced, other formats at once. `voxel_size` is None where neither says.

    Raises:
        InputError: missing, empty, damaged or truncated file; unknown format; not 3D.
    """
    path = Path(path)
    with readable(path):
        reader = READERS.get(format_of(path))
        if reader is None:
            raise InputError(f"{path}: format {suffix_of(path) or 'without suffix'} is not read; use one of {', '.join(READERS)}")
        volume = reader(path)
    shape = " x ".join(str(n) for n in volume.array.shape)
    if volume.array.ndim != 3:
        raise InputError(f"{path}: {volume.array.ndim}D ({shape}); one 3D volume (z, y, x) is needed: give such a stack")
    if volume.array.size == 0:
        raise InputError(f"{path}: an empty volume ({shape}); export it again")
    if voxel_size is not None:
        given = as_voxel_size(voxel_size)
        volume.origin = _origin(path, volume, given)
        volume.voxel_size = given
    elif volume.voxel_size is not None:
        volume.voxel_size = as_voxel_size(volume.voxel_size, str(path))
    return volume


def _origin(path: Path, volume: Volume, given: Sequence[float]) -> tuple[float, ...]:
    """The origin of a volume where another voxel size is given than its file says."""
    if volume.voxel_size is None or not any(volume.origin):  # without a size only raw has an origin, which is µm by its name
        return volume.origin
    factors = [one / other for one, other in zip(given, volume.voxel_size)]
    if all(math.isclose(factor, factors[0], rel_tol=1e-6) for factor in factors):
        unchanged = math.isclose(factors[0], 1.0, rel_tol=1e-6)
        return volume.origin if unchanged else tuple(significant(o * factors[0]) for o in volume.origin)
    sizes = size_text(volume.voxel_size), size_text(given)
    logger.warning("%s: voxels of %s µm, but %s µm are given, which is no change of unit; its origin is dropped", path, *sizes)
    return (0.0, 0.0, 0.0)


def check_fits(path: str | Path, shape: Sequence[int]) -> None:
    """Whether the format of a path is written and holds a volume of a shape (z, y, x), before it is made.

    Raises:
        InputError: it is not, or does not.
    """
    suffix = suffix_of(Path(path))
    if suffix not in WRITERS:
        raise InputError(f"{path}: format {suffix or 'without suffix'} is not written; use one of {', '.join(WRITERS)}")
    if WRITERS[suffix] is write_nifti:
        check_nifti_shape(Path(path), shape)


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write a volume as .nii, .nii.gz, .tif, .tiff, .mhd (+ .raw), .mha or .raw (+ .json), whole or not at all.

    The array may be one on disk that gives arrays for slices: it is read some planes at a time.

    Raises:
        InputError: unknown suffix, shape or type; too large for the format; the folder cannot be written.
    """
    path = Path(path)
    check_fits(path, volume.array.shape)
    if volume.array.ndim != 3 or volume.array.size == 0:
        raise InputError(f"{path}: shape {volume.array.shape} cannot be written; one 3D volume (z, y, x) is needed")
    if volume.array.dtype.name not in WRITTEN_DTYPES:
        raise InputError(f"{path}: type {volume.array.dtype} cannot be written; use one of {', '.join(WRITTEN_DTYPES)}")
    WRITERS[suffix_of(path)](path, volume)
