"""Raw voxels with a JSON file beside them: {"shape": [z, y, x], "dtype": "uint8", "voxel_size_um": [z, y, x], ...}."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bundle.errors import InputError
from bundle.io.atomic import atomic_path
from bundle.io.volume import Volume, as_voxel_size

DEPTH = 64  # planes that are read at a time, as many as a chunk of the store has
MOST = 2**29  # voxels that are read at a time: of very large planes less than DEPTH
_EXAMPLE = '{"shape": [z, y, x], "dtype": "uint8", "voxel_size_um": [z, y, x]}'


def open_raw(path: Path) -> Volume:
    """name.raw, mapped to memory, as name.json says: `shape` and `dtype`; `voxel_size_um`, `origin_um`, `byte_order` (little, big) if given.
    Without the last the dtype tells the order: >u2 is big, uint16 little.

    Raises:
        InputError: no or an unusable JSON file; a size that does not fit it.
    """
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        raise InputError(f"{path}: raw voxels need {sidecar.name} beside them, such as {_EXAMPLE}" + _mhd_hint(path))
    try:
        header = json.loads(sidecar.read_text(encoding="utf-8"))
        shape = tuple(int(n) for n in header["shape"])
        dtype = np.dtype(header["dtype"])
        order = header.get("byte_order", "big" if dtype.str[0] == ">" else "little")  # a dtype may say it itself, as >u2 does
        dtype = dtype.newbyteorder({"little": "<", "big": ">"}[order])
        size = header.get("voxel_size_um")
        origin = tuple(float(v) for v in header.get("origin_um", (0, 0, 0)))
        if len(origin) != 3 or not all(map(math.isfinite, origin)):
            raise ValueError(f"origin_um {header['origin_um']}: not three finite numbers")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{sidecar}: not usable ({error!r}); write it as {_EXAMPLE}") from error
    expected, actual = math.prod(shape) * dtype.itemsize, path.stat().st_size
    if actual != expected:
        kind = "truncated" if actual < expected else "too long"
        raise InputError(f"{path}: {kind}, {actual} bytes where {sidecar.name} says {expected}; copy it again or correct shape and dtype")
    array = np.memmap(path, dtype, "r", shape=shape) if actual else np.empty(shape, dtype)
    return Volume(array, None if size is None else as_voxel_size(size, f"{sidecar}: voxel_size_um"), origin)


def write_raw(path: Path, volume: Volume) -> None:
    """Write name.raw and name.json, little-endian."""
    header = {"shape": list(volume.array.shape), "dtype": volume.array.dtype.name, "byte_order": "little", "axes": "zyx",
              "voxel_size_um": volume.voxel_size, "origin_um": volume.origin}  # fmt: skip
    # left in reverse order: the voxels are in place before the header that describes them
    with atomic_path(path.with_suffix(".json")) as sidecar, atomic_path(path) as voxels:
        sidecar.write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
        with voxels.open("wb") as file:
            write_voxels(file, volume.array)


def planes(array: np.ndarray) -> Iterator[np.ndarray]:
    """The planes (y, x) of a (z, y, x) array, or of what gives arrays for slices: read some at a time, so that a volume on disk never lies in
    memory whole, and chunks that are as deep are unpacked once."""
    depth, height, width = array.shape
    at_once = min(DEPTH, max(1, MOST // (height * width)))
    for z in range(0, depth, at_once):
        yield from np.ascontiguousarray(array[z : min(z + at_once, depth), 0:height, 0:width])


def write_voxels(file: BinaryIO, array: np.ndarray) -> None:
    """Append the voxels of a (z, y, x) array, little-endian, plane by plane."""
    for plane in planes(array):
        file.write(plane.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def _mhd_hint(path: Path) -> str:
    return f"; or read {path.with_suffix('.mhd').name}" if path.with_suffix(".mhd").is_file() else ""
