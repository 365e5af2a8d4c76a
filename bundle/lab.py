"""The validation lab's files: rocks whose fine truth is known, so that a super-resolved volume can be judged voxel by voxel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from bundle.errors import InputError, check_seed, whole
from bundle.inference import check_output_dir
from bundle.io import Volume, check_labels, write_text, write_volume
from bundle.io.files import read_volume
from bundle.metrics import majority_downsample
from bundle.microct import Scanner, scan_phantom
from bundle.phantom import FACTOR, VOXEL, Phantom, rock, sections

ARTEFACTS = ("specks", "ring", "shift", "swollen pores", "lost second")


def write_phantom(
    folder: Path, name: str, seed: int, lr_size: int, hr_size: int = 0, images: int = 0, axes: Sequence[int] = (0,), truth: bool = False,
    workers: int = 1,
) -> None:  # fmt: skip
    """Write one synthetic rock: lr.tif, scan.json and, where asked for, images and truth.

    lr.tif holds (lr_size,) * 3 voxels of 3.5 µm, scan.json the confusion of its labels with the truth, truth.tif the fine volume. The images,
    `images` sections of hr_size x hr_size pixels of 0.4375 µm normal to each of `axes`, come from other realisations than the volume: unpaired, as
    real data are. They are hr.tif, and with several axes hr_z.tif, hr_y.tif and hr_x.tif.

    Raises:
        InputError: no rock of that name, a number that cannot be, or the folder cannot be written; before anything is made.
    """
    kind = rock(name)
    check_seed(seed)
    whole(lr_size, "--lr-size", "voxels, such as 64", 1)
    whole(images, "--images", "images, 0 for none")
    whole(hr_size, "--hr-size", "pixels, such as 512", 1 if images else 0)
    whole(workers, "--workers", "processes, such as 2", 1)
    check_output_dir(folder)
    scanned = scan_phantom(Phantom(seed, VOXEL * FACTOR * lr_size, kind), (lr_size,) * 3, Scanner(), seed, workers=workers, keep=truth)
    _write(folder / "lr.tif", scanned.labels, VOXEL * FACTOR)
    if truth:
        _write(folder / "truth.tif", scanned.truth, VOXEL)
    for axis in axes if images else ():
        _write(folder / ("hr.tif" if len(axes) == 1 else f"hr_{'zyx'[axis]}.tif"), sections(seed, images, hr_size, kind, axis), VOXEL)
    record = {"rock": name, "seed": seed, "phases": kind.phases, "confusion [truth][scan]": scanned.confusion.tolist()}
    write_text(folder / "scan.json", json.dumps(record) + "\n")


def thirds(path: str | Path, scale: int, n_phases: int) -> list[np.ndarray]:
    """The thirds along z of a fine 3D volume of labels, uint8, of whole blocks of `scale` voxels.

    Raises:
        InputError: the volume cannot be read, is too small, or has other labels.
    """
    labels = check_labels(read_volume(path).array, n_phases, str(path), key=None)
    third, *sides = (n // scale * scale for n in (labels.shape[0] // 3, *labels.shape[1:]))
    if third < 2 * scale:
        raise InputError(f"{path}: {labels.shape[0]} planes are too few for three parts of two blocks of {scale}; give a thicker volume")
    if min(sides) < 2 * scale:
        raise InputError(f"{path}: planes of {labels.shape[1]} x {labels.shape[2]} voxels do not hold two blocks of {scale} a side; give larger ones")
    return [labels[i * third : (i + 1) * third, : sides[0], : sides[1]] for i in range(3)]


def split_volume(parts: Sequence[np.ndarray], folder: Path, scale: int, n_phases: int, voxel_size: float, images: int = 8) -> None:
    """Make unpaired training data and paired tests of the `thirds` of a fine 3D volume.

    The first third gives hr.tif, evenly spaced xy planes; the middle one, by majority of blocks of `scale` voxels, train/lr.tif; the last one
    test_0, test_1, ..: truth.tif and lr.tif of cubes along its diagonal that share no voxel. hr.tif is written last.

    Args:
        parts: the thirds.
        folder: where the files go.
        scale: fine voxels along the edge of a coarse one.
        n_phases: labels.
        voxel_size: of the fine volume, µm.
        images: number of planes.
    """
    sections, learned, judged = parts
    edge = min(judged.shape)
    for i in range(min(judged.shape[1:]) // edge):
        cube = judged[:edge, i * edge : (i + 1) * edge, i * edge : (i + 1) * edge]
        _write(folder / f"test_{i}" / "truth.tif", cube, voxel_size)
        _write(folder / f"test_{i}" / "lr.tif", majority_downsample(cube, scale, n_phases), voxel_size * scale)
    _write(folder / "train" / "lr.tif", majority_downsample(learned, scale, n_phases), voxel_size * scale)
    _write(folder / "hr.tif", sections[:: max(1, len(sections) // images)][:images], voxel_size)


def _write(path: Path, labels: np.ndarray, voxel_size: float) -> None:
    write_volume(path, Volume(np.ascontiguousarray(labels), (voxel_size,) * 3))


def plant(lr: np.ndarray, artefact: str, seed: int = 0) -> np.ndarray:
    """A copy of coarse labels (z, y, x), 0 = pore, 1 = host, with a planted artefact, to follow it through the super-resolution.

    Args:
        lr: labels.
        artefact: "specks": 2 % of the voxels get the label of any phase; "ring": a cylinder one voxel thick about z turns to pore; "shift": the upper
            half is moved one voxel along y; "swollen pores": host voxels that touch a pore become pore; "lost second": label 2 becomes host.
        seed: of the specks.

    Raises:
        InputError: another artefact.
    """
    planted = lr.copy()
    if artefact == "specks":
        rng = np.random.default_rng((seed, 9))
        hit = rng.random(lr.shape) < 0.02
        planted[hit] = rng.integers(0, lr.max() + 1, int(hit.sum()))
    elif artefact == "ring":
        y, x = (np.arange(n) - (n - 1) / 2 for n in lr.shape[1:])
        radius = np.hypot(y[:, None], x)
        planted[:, np.abs(radius - min(lr.shape[1:]) / 4) < 0.5] = 0
    elif artefact == "shift":
        planted[: lr.shape[0] // 2] = np.roll(lr[: lr.shape[0] // 2], 1, axis=1)
    elif artefact == "swollen pores":
        planted[ndimage.binary_dilation(lr == 0) & (lr == 1)] = 0
    elif artefact == "lost second":
        planted[lr == 2] = 1
    else:
        raise InputError(f"artefact: {artefact} is not known; choose one of {', '.join(ARTEFACTS)}")
    return planted
