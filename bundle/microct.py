"""Simulated micro-CT: from fine labels to the coarse labels that a scan and its segmentation give, with their errors.

attenuation of each phase -> point spread and block integration -> photon and electronic noise, rings -> smoothing, thresholds, cleaning.
It works in the reconstructed image; projections are not computed. Axis order (z, y, x); the scanner turns about z.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bundle.errors import InputError
from bundle.metrics import confusion, majority_downsample
from bundle.phantom import CLAY, FACTOR, HOST, PORE, SECOND, VOXEL, Phantom, smooth_noise

PARTS = 2  # cells along the edge of a coarse voxel at which the point spread is applied

Blocks = Iterable[tuple[tuple[slice, slice, slice], np.ndarray]]


@dataclass(frozen=True)
class Scanner:
    """A micro-CT scanner and the segmentation behind it; the defaults give the errors of the authors' segmented scan of Berea.

    Args:
        attenuation: of the labels 0 to 3, in units of the host mineral's path through a voxel. Feldspar is close to quartz.
        blur: standard deviation of the point spread, coarse voxels.
        photons: that would reach the detector through an empty voxel; their number is Poisson distributed.
        electronic: standard deviation of the readout noise, in attenuation.
        mottle: standard deviation of the second mineral's attenuation, which differs from place to place (feldspars hold more or less potassium
            and calcium), in attenuation, and the length of its spots, µm.
        ring: standard deviation of the error of a detector pixel, which draws a ring about the axis z, in attenuation; 0 = none.
        smoothing: standard deviation of the filter before the segmentation, coarse voxels.
        thresholds: attenuation between pore and clay, clay and host, host and second mineral.
        support: a voxel with fewer than so many of its 26 neighbours of its own label gets the most frequent label around it.
    """

    attenuation: tuple[float, float, float, float] = (0.0, 1.0, 1.16, 0.9)
    blur: float = 0.5
    photons: float = 1500.0
    electronic: float = 0.01
    mottle: tuple[float, float] = (0.09, 30.0)
    ring: float = 0.0
    smoothing: float = 0.7
    thresholds: tuple[float, float, float] = (0.37, 0.65, 1.075)
    support: int = 13


def scan(blocks: Blocks, shape: tuple[int, int, int], scanner: Scanner = Scanner(), seed: int = 0) -> np.ndarray:
    """The reconstructed image of a fine volume that comes in blocks.

    Args:
        blocks: (place in the fine volume, labels 0 to 3), such as `Phantom.blocks`; every place begins and ends at coarse voxels.
        shape: coarse voxels (z, y, x); the fine volume has `FACTOR` times as many a side.
        scanner: what scans.
        seed: of the noise.

    Returns:
        float32 (z, y, x), attenuation.
    """
    cell = FACTOR // PARTS
    grey = np.zeros([n * PARTS for n in shape], np.float32)
    table = np.asarray(scanner.attenuation, np.float32)
    strength, length = scanner.mottle
    for place, labels in blocks:
        parts = [k for n in labels.shape for k in (n // cell, cell)]
        mean = table[labels].reshape(parts).mean((1, 3, 5))
        origin = np.array([VOXEL * (p.start + cell / 2) for p in place])
        spots = smooth_noise((seed, 2), origin, mean.shape, VOXEL * cell, length)
        mean += strength * spots * (labels == SECOND).reshape(parts).mean((1, 3, 5))
        grey[tuple(slice(p.start // cell, p.stop // cell) for p in place)] = mean
    grey = ndimage.gaussian_filter(grey, scanner.blur * PARTS, mode="nearest")
    grey = grey.reshape([k for n in shape for k in (n, PARTS)]).mean((1, 3, 5))
    rng = np.random.default_rng((seed, 1))
    # Beer-Lambert: noise grows with the attenuation.
    counts = rng.poisson(scanner.photons * np.exp(-grey.astype(float)))
    grey = -np.log(np.maximum(counts, 1) / scanner.photons) + scanner.electronic * rng.standard_normal(shape)
    if scanner.ring:
        y, x = (np.arange(n) - (n - 1) / 2 for n in shape[1:])
        radius = np.hypot(y[:, None], x).astype(int)
        grey += scanner.ring * rng.standard_normal((shape[0], radius.max() + 1))[:, radius]
    return grey.astype(np.float32)


def segment(grey: np.ndarray, scanner: Scanner = Scanner()) -> np.ndarray:
    """Labels 0 to 3 of a reconstructed image (z, y, x) by smoothing, thresholds and the removal of islands -> uint8 (z, y, x).

    A voxel at a pore's edge has the mean attenuation of pore and grain, which is that of clay: hence the rims of clay in such scans.

    Raises:
        InputError: the image is not 3D.
    """
    if grey.ndim != 3:
        raise InputError(f"the image to segment is {grey.ndim}D: give a volume (z, y, x)")
    order = np.array([PORE, CLAY, HOST, SECOND], np.uint8)  # by attenuation
    smooth = ndimage.gaussian_filter(grey, scanner.smoothing, mode="nearest")
    labels = order[np.digitize(smooth, scanner.thresholds)]
    votes = np.stack([ndimage.uniform_filter((labels == phase).astype(np.float32), 3, mode="nearest") for phase in range(4)])
    own = np.take_along_axis(votes, labels[None].astype(int), 0)[0]
    weak = own * 27 < scanner.support + 0.5  # the voxel itself counts
    labels[weak] = votes[:, weak].argmax(0)
    return labels


@dataclass(frozen=True)
class Scan:
    """A scanned phantom.

    Attributes:
        labels: what the segmentation gives, uint8 (z, y, x), coarse voxels.
        confusion: (4, 4) coarse voxels by [most frequent phase of the truth][label].
        truth: the fine labels, uint8, or None where they were not kept.
    """

    labels: np.ndarray
    confusion: np.ndarray
    truth: np.ndarray | None


def scan_phantom(
    phantom: Phantom, shape: tuple[int, int, int], scanner: Scanner = Scanner(), seed: int = 0, workers: int = 1, keep: bool = False
) -> Scan:
    """Scan and segment the first `shape` coarse voxels (z, y, x) of a phantom, block by block: the fine volume is held only to `keep` it."""
    fine = tuple(n * FACTOR for n in shape)
    truth = np.empty(fine, np.uint8) if keep else None
    majority = np.empty(shape, np.uint8)

    def watched() -> Blocks:
        for place, labels in phantom.blocks(fine, workers=workers):
            majority[tuple(slice(p.start // FACTOR, p.stop // FACTOR) for p in place)] = majority_downsample(labels, FACTOR, 4)
            if keep:
                truth[place] = labels
            yield place, labels

    labels = segment(scan(watched(), shape, scanner, seed), scanner)
    return Scan(labels, confusion(labels, majority, 4), truth)
