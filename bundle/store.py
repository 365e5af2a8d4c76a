"""The super-resolved volume on disk: OME-Zarr 0.5, written shard by shard by any number of processes."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bundle.errors import InputError, first_line
from bundle.io.atomic import left_partials, partial_path
from bundle.io.files import stem_of
from bundle.io.region import boxes
from bundle.io.volume import Volume
from bundle.pyramid import majority_pyramid, mean_pyramid
from bundle.report import colour_labels

logger = logging.getLogger(__name__)

Triple = tuple[int, int, int]
SUFFIX = ".ome.zarr"
FINGERPRINT = "rock_super_resolution"
"""Attribute of a store that says what it is made from."""
CHUNK = 64  # voxels along the edge of what a viewer loads at once
NOT_MADE = 255  # no voxel's value: a part of a shard that is missing is not taken for the first phase, and a shard of that is written


class ShardStore:
    """A volume (z, y, x), of channels where it has some, and its pyramid on disk, in shards that are each one file a level and written whole or not.

    The shards of a level cover what those of the finest do, so a shard with its part of the pyramid belongs to one writer, and writers need not
    know of each other. Voxels are uint8 below 255.

    Args:
        path: of the folder, `<name>.ome.zarr`.
        shape: voxels (z, y, x).
        shard: edge of a shard, voxels; a multiple of 2^levels.
        voxel_size, origin: µm (z, y, x); the origin is the centre of voxel 0.
        phases: names of the labels 0, 1, …
        fingerprint: what the voxels are made from: a store with another one is refused.
        levels: of the pyramid beyond the volume itself.
        channels: number of channels; 0 for a volume without that axis.

    Raises:
        InputError: the folder cannot be written, or holds something else.
    """

    kind = ""  # of the pyramid, as in the metadata

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
        channels: int = 0,
    ):
        if shard % 2**levels:
            raise ValueError(f"a shard of {shard} voxels is no multiple of 2^{levels}")
        self.path, self.shape, self.shard, self.levels = Path(path), tuple(int(n) for n in shape), int(shard), levels
        self.voxel_size, self.origin = tuple(map(float, voxel_size)), tuple(map(float, origin))
        self.phases, self.channels = list(phases), (channels,) if channels else ()
        place = {"shape": self.shape, "voxel_size": self.voxel_size, "origin": self.origin, "phases": self.phases, "shard": self.shard}
        self.fingerprint = json.loads(json.dumps({**fingerprint, **place}, default=str))
        self.arrays = self._open()

    def coarser(self, voxels: np.ndarray) -> list[np.ndarray]:
        """The pyramid of a shard, without the shard itself."""
        raise NotImplementedError

    def described(self) -> dict[str, Any]:
        """What the metadata say beside size and place."""
        raise NotImplementedError

    def shards(self) -> Iterator[tuple[Triple, Triple]]:
        """Start and shape (z, y, x) of every shard, voxels; the last ones are cut at the border."""
        return boxes(self.shape, self.shard)

    def finished(self, start: Triple) -> bool:
        """Whether the shard is there and sound on every level: all of its chunks have their checksums.

        Raises:
            InputError: the system cannot read it, which says nothing of what it holds; for want of memory a MemoryError.
        """
        for level, array in enumerate(self.arrays):
            if not self._file(level, start).is_file():
                return False
            try:
                damage = "incomplete" if (array[self._place(level, start)] == NOT_MADE).any() else None
            except MemoryError:
                raise
            except Exception as error:  # of zarr and of the codecs, each their own
                if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):  # too many open files, a disk that is away
                    raise InputError(f"{self._file(level, start)}: cannot be read ({error.strerror}); start again: it goes on") from error
                damage = first_line(error)
            if damage:
                logger.warning(f"{self._file(level, start)}: damaged ({damage}); made again")
                return False
        return True

    def missing(self) -> int:
        """How many shards are not there yet; damage is not looked for."""
        return sum(not all(self._file(level, start).is_file() for level in range(len(self.arrays))) for start, _ in self.shards())

    def write(self, start: Triple, voxels: np.ndarray) -> None:
        """Write a shard, uint8 (z, y, x) or (channel, z, y, x), and its part of the pyramid; the finest last, so that it is there when all are.

        Raises:
            InputError: the disk is full or cannot be written.
        """
        pyramid = [voxels, *self.coarser(voxels)]
        try:
            self.discard(start)  # a damaged one: zarr would read it to complete it
            for level in reversed(range(len(self.arrays))):
                self.arrays[level][self._place(level, start)] = pyramid[level]
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror or error}); free the disk and start again: it goes on") from error

    def discard(self, start: Triple) -> None:
        """Takes what there is of a shard away, so that it is not taken for finished until it is written again."""
        for level in range(len(self.arrays)):
            self._file(level, start).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Removes what killed processes left of this store; for when nobody writes to it any more."""
        for partial in self.path.rglob("*.partial"):
            partial.unlink(missing_ok=True)
        for partial in left_partials(self.path):
            shutil.rmtree(partial, ignore_errors=True)

    def volume(self) -> Volume:
        """The finest voxels; `array` is read from the disk where it is sliced."""
        return Volume(self.arrays[0], self.voxel_size, self.origin)

    def _place(self, level: int, start: Triple) -> tuple[slice, ...]:
        edge = self.shard >> level
        return (..., *(slice(a >> level, min((a >> level) + edge, n)) for a, n in zip(start, self.arrays[level].shape[-3:])))

    def _file(self, level: int, start: Triple) -> Path:
        return self.path.joinpath(str(level), "c", *("0" for _ in self.channels), *(str(a // self.shard) for a in start))

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
            raise InputError(f"{self.path}: no store of this program ({first_line(error)}); move it away or choose another output_dir") from error
        if found != self.fingerprint:
            raise InputError(f"{self.path}: was made otherwise: {_differences(found, self.fingerprint)}; move it away or choose another output_dir")
        return [group[str(level)] for level in range(self.levels + 1)]

    def _create(self) -> None:
        """Makes the empty store aside and moves it to its place: the first of several processes wins, and all make the same."""
        import zarr
        from zarr.codecs import ZstdCodec

        partial = partial_path(self.path)
        try:
            group = zarr.open_group(str(partial), mode="w", zarr_format=3)
            for level in range(self.levels + 1):
                edge = self.shard >> level
                group.create_array(
                    str(level),
                    shape=(*self.channels, *(-(-n // 2**level) for n in self.shape)),
                    dtype="uint8",
                    shards=(*self.channels, *(edge,) * 3),
                    chunks=(*(1 for _ in self.channels), *(_chunk(edge),) * 3),
                    compressors=ZstdCodec(level=3, checksum=True),
                    fill_value=NOT_MADE,
                    dimension_names=(*("c" for _ in self.channels), "z", "y", "x"),
                )
            group.attrs.update({"ome": self._ome(), FINGERPRINT: self.fingerprint})
            try:
                os.rename(partial, self.path)
            except OSError:
                if not self.path.exists():
                    raise
                # another process was first
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _ome(self) -> dict[str, Any]:
        """The metadata of the OME-NGFF specification 0.5. Coordinates are those of voxel centres, so a coarser level starts later."""
        datasets = []
        for level in range(self.levels + 1):
            scale = [v * 2**level for v in self.voxel_size]
            shift = [o + v * (2**level - 1) / 2 for o, v in zip(self.origin, self.voxel_size)]
            ones, zeros = [1.0 for _ in self.channels], [0.0 for _ in self.channels]
            transformations = [{"type": "scale", "scale": ones + scale}, {"type": "translation", "translation": zeros + shift}]
            datasets.append({"path": str(level), "coordinateTransformations": transformations})
        channel_axes = [{"name": "c", "type": "channel"} for _ in self.channels]
        axes = channel_axes + [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
        name = self.path.name.removesuffix(SUFFIX)
        return {"version": "0.5", "multiscales": [{"name": name, "type": self.kind, "axes": axes, "datasets": datasets}], **self.described()}


class LabelStore(ShardStore):
    """Labels 0, 1, … of the phases and their majority pyramid: an OME-Zarr label image."""

    kind = "majority"

    def coarser(self, voxels: np.ndarray) -> list[np.ndarray]:
        """Labels by majority."""
        return majority_pyramid(voxels, len(self.phases), self.levels)

    def described(self) -> dict[str, Any]:
        """Names and colours of the phases."""
        colours = [{"label-value": label, "rgba": [*rgb, 255]} for label, rgb in enumerate(_colours(len(self.phases)))]
        return {"image-label": {"colors": colours, "properties": [{"label-value": i, "phase": name} for i, name in enumerate(self.phases)]}}


class PercentStore(ShardStore):
    """Whole per cent, 0 to 100, and their mean pyramid: an OME-Zarr image, with a channel for each phase or without."""

    kind = "mean"

    def coarser(self, voxels: np.ndarray) -> list[np.ndarray]:
        """Means of blocks."""
        if not self.channels:
            return mean_pyramid(voxels, self.levels)
        return [np.stack(level) for level in zip(*(mean_pyramid(channel, self.levels) for channel in voxels))]

    def described(self) -> dict[str, Any]:
        """Channels as viewers show them: from 0 to 100, those of phases in their colour, all but the first switched off."""
        if self.channels:
            colours = zip(self.phases, _colours(len(self.phases)))
            named = [(name, f"{r:02X}{g:02X}{b:02X}") for name, (r, g, b) in colours]
        else:
            named = [("per cent", "FFFFFF")]
        window = {"min": 0, "start": 0, "end": 100, "max": 100}
        channels = [{"label": name, "color": colour, "window": window, "active": i == 0} for i, (name, colour) in enumerate(named)]
        return {"omero": {"channels": channels}}


def store_path(lr_image: str | Path, output_dir: str | Path) -> Path:
    """`<name of the LR image>_sr.ome.zarr` in the folder of the results."""
    return Path(output_dir) / (stem_of(lr_image) + "_sr" + SUFFIX)


def _colours(number: int) -> list[list[int]]:
    return colour_labels(np.arange(number)).tolist()


def _chunk(edge: int) -> int:
    """The divisor of a shard's edge whose ratio to `CHUNK` is nearest to 1: of one with a large prime factor it is larger."""
    return min((n for n in range(1, edge + 1) if edge % n == 0), key=lambda n: max(n / CHUNK, CHUNK / n))


def _differences(found: Any, expected: Any, name: str = "") -> str:
    """What two fingerprints do not share, e.g. `seed is 1, now 2`."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        keys = [key for key in {**found, **expected} if found.get(key) != expected.get(key)]
        return ", ".join(_differences(found.get(key), expected.get(key), f"{name} {key}".strip()) for key in keys)
    return f"{name or 'its record'} is {found}, now {expected}"
