"""The LR labels of a volume on disk, of which only what is asked for is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bundle.errors import InputError
from bundle.io.files import lone_path, open_volume, readable
from bundle.io.labels import check_labels, labels_sha256
from bundle.io.region import region_slices, replicated
from bundle.io.volume import as_voxel_size


class _Labels:
    """A box of the volume behind a source as an array that is read where it is sliced."""

    def __init__(self, source: LabelSource, start: Sequence[int], stop: Sequence[int]):
        self._source, self._start, self.shape = source, tuple(start), tuple(b - a for a, b in zip(start, stop))

    def __getitem__(self, box: tuple[slice, slice, slice]) -> np.ndarray:
        return self._source.of_volume(tuple(slice(first + one.start, first + one.stop) for first, one in zip(self._start, box)))


class LabelSource:
    """Labels 0..n-1 (z, y, x) of a file, or of a region of it, read box by box.

    Opening it goes through all of them once, slab by slab, so that what is wrong with a volume shows before the long work and not in its
    middle. Around a region the volume goes on: what is made of it is a part of what is made of the whole.

    Args:
        path: of the volume; any format of `open_volume`.
        n_labels: number of phases.
        table: file value -> label; None where the file holds 0..n-1 already.
        voxel_size: µm, a number or (z, y, x); overrides the file.
        region: [[z0, z1], [y0, y1], [x0, x1]] in voxels; None is all.

    Attributes:
        shape: voxels (z, y, x) of the region.
        start: its first voxel (z, y, x) in the volume.
        voxel_size: µm (z, y, x).
        origin: µm (z, y, x), of the centre of the region's first voxel.
        signs: of the axes (z, y, x), as the file has them.
        checksum: SHA-256 of the region's labels, hexadecimal: the same in every format.

    Raises:
        InputError: as `open_volume` and `check_labels`; a list of files; no voxel size; a region outside the volume.
    """

    def __init__(
        self,
        path: str | Path,
        n_labels: int,
        table: Mapping | None = None,
        voxel_size: float | Sequence[float] | None = None,
        region: Sequence[Sequence[int]] | None = None,
    ):
        self.path, self.n_labels, self.table = lone_path(path, "lr_image"), n_labels, table
        volume = open_volume(path, None if voxel_size is None else as_voxel_size(voxel_size, "lr_voxel_size"))
        if volume.voxel_size is None:
            raise InputError(f"{path}: does not state its voxel size; set lr_voxel_size in µm")
        self._array = volume.array
        inside = region_slices(volume.array.shape, region)
        self.shape, self.start = tuple(part.stop - part.start for part in inside), tuple(part.start for part in inside)
        self.voxel_size, self.signs = volume.voxel_size, volume.signs
        self.origin = tuple(o + v * first for o, v, first in zip(volume.origin, volume.voxel_size, self.start))
        self._state = self._file_state()
        self.checksum = labels_sha256(self)

    def checksum_around(self, reach: int) -> str:
        """SHA-256 of the labels of the region and of those within `reach` voxels of it, hexadecimal: of all that a result is made from.

        Raises:
            InputError: as `check_labels`.
        """
        start = [max(0, first - reach) for first in self.start]
        stop = [min(n, first + edge + reach) for first, edge, n in zip(self.start, self.shape, self._array.shape)]
        around = _Labels(self, start, stop)
        return self.checksum if around.shape == self.shape else labels_sha256(around)

    def read(self, low: Sequence[int], high: Sequence[int]) -> np.ndarray:
        """Labels of a box (z, y, x), uint8; what lies beyond the border of the volume repeats it.

        Args:
            low, high: first voxel and the one behind the last, in voxels of the volume, not of the region; may lie outside of both.

        Raises:
            InputError: the file has changed since it was opened, or cannot be read any more.
        """
        self._check_unchanged()
        return replicated(_Labels(self, (0, 0, 0), self._array.shape), low, high)

    def __getitem__(self, box: tuple[slice, slice, slice]) -> np.ndarray:
        """Labels of slices along z, y and x of the region, uint8."""
        return _Labels(self, self.start, [first + n for first, n in zip(self.start, self.shape)])[box]

    def of_volume(self, box: tuple[slice, slice, slice]) -> np.ndarray:
        """Labels of slices along z, y and x of the volume, uint8."""
        with readable(self.path):
            return check_labels(self._array[box], self.n_labels, str(self.path), self.table, "lr_labels")

    def _check_unchanged(self) -> None:
        if self._file_state() != self._state:
            raise InputError(f"{self.path}: has changed while it was read; leave it as it is and start again with another output_dir")

    def _file_state(self) -> tuple[int, int] | None:
        chunks = (os.path.join(folder, name) for folder, _, names in os.walk(self.path) for name in names)  # of an OME-Zarr; a file has none
        try:
            states = [(status.st_size, status.st_mtime_ns) for status in map(os.stat, [self.path] if self.path.is_file() else chunks)]
        except OSError:
            return None
        return sum(size for size, _ in states), max((time for _, time in states), default=0)
