"""The super-resolved volume on disk: an OME-Zarr 0.5 label image, written shard by shard by any number of processes."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bundle.errors import InputError, first_line
from bundle.io.region import boxes
from bundle.io.volume import Volume
from bundle.pyramid import majority_pyramid
from bundle.report import colour_labels

logger = logging.getLogger(__name__)

Triple = tuple[int, int, int]
FINGERPRINT = "rock_super_resolution"
"""Attribute of the store that says what it is made from."""
CHUNK = 64  # voxels along the edge of what a viewer loads at once
NOT_MADE = 255  # no label: so that a part of a shard that is missing is not taken for the first phase, and a shard of that is written


class LabelStore:
    """Labels (z, y, x) and their majority pyramid on disk, in shards that are each one file a level and written whole or not at all.

    The shards of a level cover what those of the finest do, so a shard with its part of the pyramid belongs to one writer, and writers need not
    know of each other.

    Args:
        path: of the folder, `<name>.ome.zarr`.
        shape: voxels (z, y, x).
        shard: edge of a shard, voxels; a multiple of 2^levels.
        voxel_size, origin: µm (z, y, x); the origin is the centre of voxel 0.
        phases: names of the labels 0, 1, …
        fingerprint: what the labels are made from: a store with another one is refused.
        levels: of the pyramid beyond the volume itself.

    Raises:
        InputError: the folder cannot be written, or holds something else.
    """

    def __init__(
        self,
        path: str | Path,
        shape: Sequence[int],
        shard: int,
        voxel_size: Sequence[float],
        origin: Sequence[float],
        phases: Sequence[str],
        fingerprint: Mapping[str, Any],
        levels: int = 3,
    ):
        if shard % 2**levels:
            raise ValueError(f"a shard of {shard} voxels is no multiple of 2^{levels}")
        self.path, self.shape, self.shard, self.levels = Path(path), tuple(int(n) for n in shape), int(shard), levels
        self.voxel_size, self.origin = tuple(map(float, voxel_size)), tuple(map(float, origin))
        self.phases = list(phases)
        self.fingerprint = json.loads(json.dumps({**fingerprint, "shape": self.shape, "shard": self.shard}, default=str))
        self.arrays = self._open()

    def shards(self) -> Iterator[tuple[Triple, Triple]]:
        """Start and shape (z, y, x) of every shard, voxels; the last ones are cut at the border."""
        return boxes(self.shape, self.shard)

    def finished(self, start: Triple) -> bool:
        """Whether the shard is there and sound on every level: all of its chunks have their checksums."""
        for level, array in enumerate(self.arrays):
            if not self._file(level, start).is_file():
                return False
            try:
                damage = "incomplete" if (array[self._place(level, start)] == NOT_MADE).any() else None
            except Exception as error:  # of zarr and of the codecs, each their own
                damage = first_line(error)
            if damage:
                logger.warning(f"{self._file(level, start)}: damaged ({damage}); made again")
                return False
        return True

    def missing(self) -> int:
        """How many shards are not there yet; damage is not looked for."""
        return sum(not all(self._file(level, start).is_file() for level in range(len(self.arrays))) for start, _ in self.shards())

    def write(self, start: Triple, labels: np.ndarray) -> None:
        """Write the labels (z, y, x) of a shard, uint8, and their part of the pyramid; the finest last, so that it is there when all are.

        Raises:
            InputError: the disk is full or cannot be written.
        """
        pyramid = [labels, *majority_pyramid(labels, len(self.phases), self.levels)]
        try:
            for level in reversed(range(len(self.arrays))):
                self._file(level, start).unlink(missing_ok=True)  # a damaged one: zarr would read it to complete it
                self.arrays[level][self._place(level, start)] = pyramid[level]
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror or error}); free the disk and start again: it goes on") from error

    def tidy(self) -> None:
        """Removes what killed processes left; for when nobody writes any more."""
        for partial in self.path.rglob("*.partial"):
            partial.unlink(missing_ok=True)

    def volume(self) -> Volume:
        """The finest labels; `array` is read from the disk where it is sliced."""
        return Volume(self.arrays[0], self.voxel_size, self.origin)

    def _place(self, level: int, start: Triple) -> tuple[slice, ...]:
        edge = self.shard >> level
        return tuple(slice(a >> level, min((a >> level) + edge, n)) for a, n in zip(start, self.arrays[level].shape))

    def _file(self, level: int, start: Triple) -> Path:
        return self.path.joinpath(str(level), "c", *(str(a // self.shard) for a in start))

    def _open(self) -> list:
        import zarr  # takes a moment to import

        try:
            if not self.path.exists():
                self._create()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror or error}); choose another output_dir") from error
        try:
            group = zarr.open_group(str(self.path), mode="r+")
            found = group.attrs.get(FINGERPRINT)
        except PermissionError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); choose another output_dir") from error
        except Exception as error:  # of zarr and of the system, each their own
            raise InputError(f"{self.path}: no store of labels ({first_line(error)}); move it away or choose another output_dir") from error
        if found != self.fingerprint:
            raise InputError(f"{self.path}: was made otherwise: {_differences(found, self.fingerprint)}; move it away or choose another output_dir")
        return [group[str(level)] for level in range(self.levels + 1)]

    def _create(self) -> None:
        """Makes the empty store aside and moves it to its place: the first of several processes wins, and all make the same."""
        import zarr
        from zarr.codecs import ZstdCodec

        partial = self.path.with_name(f".partial-{os.getpid()}-{self.path.name}")
        try:
            group = zarr.open_group(str(partial), mode="w", zarr_format=3)
            for level in range(self.levels + 1):
                edge = self.shard >> level
                group.create_array(
                    str(level),
                    shape=tuple(-(-n // 2**level) for n in self.shape),
                    dtype="uint8",
                    shards=(edge,) * 3,
                    chunks=(_chunk(edge),) * 3,
                    compressors=ZstdCodec(level=3, checksum=True),
                    fill_value=NOT_MADE,
                    dimension_names=("z", "y", "x"),
                )
            group.attrs.update({"ome": self._ome(), FINGERPRINT: self.fingerprint})
            with suppress(OSError):  # another process was first
                os.rename(partial, self.path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _ome(self) -> dict[str, Any]:
        """The metadata of the OME-NGFF specification 0.5. Coordinates are those of voxel centres, so a coarser level starts later."""
        datasets = []
        for level in range(self.levels + 1):
            scale = [v * 2**level for v in self.voxel_size]
            shift = [o + v * (2**level - 1) / 2 for o, v in zip(self.origin, self.voxel_size)]
            transformations = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]
            datasets.append({"path": str(level), "coordinateTransformations": transformations})
        colours = [{"label-value": label, "rgba": [*rgb, 255]} for label, rgb in enumerate(colour_labels(np.arange(len(self.phases))).tolist())]
        return {
            "version": "0.5",
            "multiscales": [
                {
                    "name": self.path.name.removesuffix(".ome.zarr"),
                    "type": "majority",
                    "axes": [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"],
                    "datasets": datasets,
                }
            ],
            "image-label": {
                "colors": colours,
                "properties": [{"label-value": label, "phase": name} for label, name in enumerate(self.phases)],
            },
        }


def _chunk(edge: int) -> int:
    """The largest divisor of a shard's edge that is at most `CHUNK`."""
    return max(n for n in range(1, min(edge, CHUNK) + 1) if edge % n == 0)


def _differences(found: Any, expected: Any, name: str = "") -> str:
    """What two fingerprints do not share, e.g. `seed is 1, now 2`."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        keys = [key for key in {**found, **expected} if found.get(key) != expected.get(key)]
        return ", ".join(_differences(found.get(key), expected.get(key), f"{name} {key}".strip()) for key in keys)
    return f"{name or 'its record'} is {found}, now {expected}"
