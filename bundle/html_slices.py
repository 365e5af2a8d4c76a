"""Sections of LR, SR and HR, and of the uncertainty, as small PNG pictures inside a page: only the sections shown are read."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from bundle.errors import InputError
from bundle.io import Volume
from bundle.metrics import majority_downsample
from bundle.report import PLANES, colour_labels

MAX_PLACES = 24  # sections across a plane's normal
MAX_PIXELS = 512  # along a side
MAX_BYTES = 10 << 20  # of all pictures; fewer sections are shown where they take more
LEVELS = 15  # of the uncertainty beside 0: 4 bits a pixel
OVERLAY = (255, 0, 255)  # no phase has it
OVERLAY_OPACITY = 230  # of 255, where the uncertainty is largest

Groups = Mapping[str, Sequence[np.ndarray]]


@dataclass
class Sections:
    """Pictures of one plane.

    Attributes:
        extent: (height, width) of LR and SR, in units of the voxel size.
        places: position of each section along the normal, in the same units, from the border of the volume.
        pictures: column (`lr`, `sr`, `hr`, `uncertainty`) -> data URIs, one a place; `hr` is empty where there is no image of the plane.
        extents: column -> (height, width) of each picture: those of HR can be smaller than `extent`, others larger by part of a pixel.
        pixels: column -> (height, width) in pixels of the pictures.
        hr_names: of each place: which image, and which part of it.
        reduced: column -> how many voxels along the edge of a pixel.
    """

    extent: tuple[float, float]
    places: list[float]
    pictures: dict[str, list[str]]
    extents: dict[str, list[tuple[float, float]]]
    pixels: dict[str, tuple[int, int]]
    hr_names: list[str]
    reduced: dict[str, int]


def sections(lr: Volume, sr: Volume, groups: Groups, n_phases: int, uncertainty: Any = None) -> dict[str, Sections]:
    """Up to `MAX_PLACES` sections for each of the three planes, fewer where all pictures would take more than `MAX_BYTES`.

    LR and SR are cut through the centres of the same LR voxels. HR images are cut to windows as large as those sections, a different one at
    each place.

    Args:
        lr: labels (z, y, x) and voxel size.
        sr: labels a whole number of times finer; the array may be one on disk that gives arrays for slices.
        groups: plane (`xy`, `xz`, `yz`) -> HR images with pixels as large as SR voxels; any other name stands for all planes.
        n_phases: number of labels.
        uncertainty: per cent 0..100 (z, y, x) on the grid of SR, or None.

    Raises:
        InputError: the uncertainty has another shape, or values outside 0..100.
    """
    if uncertainty is not None and tuple(uncertainty.shape) != tuple(sr.array.shape):
        raise InputError(f"uncertainty_image has shape {tuple(uncertainty.shape)}, SR {tuple(sr.array.shape)}: give that of the same result")
    places, made = MAX_PLACES, None
    while made is None or (places > 1 and _bytes(made) > MAX_BYTES):
        if made is not None:
            places = max(1, places // 2)
        made = {plane: _sections(plane, places, lr, sr, groups, n_phases, uncertainty) for plane in PLANES}
    return made


def label_png(labels: np.ndarray) -> bytes:
    """Labels (rows, columns) as PNG with the colours of the phases as its palette."""
    return _png(labels, colour_labels(np.arange(int(labels.max()) + 1)))


def mosaic_png(crops: np.ndarray, columns: int) -> bytes:
    """Labels (n, rows, columns) row by row as one PNG as `label_png` makes, with white lines between."""
    white = int(crops.max()) + 1
    framed = np.pad(crops, ((0, -len(crops) % columns), (0, 2), (0, 2)), constant_values=white)
    rows = framed.reshape(-1, columns, *framed.shape[1:]).swapaxes(1, 2).reshape(-1, columns * framed.shape[2])
    return _png(rows[:-2, :-2], np.concatenate([colour_labels(np.arange(white)), np.full((1, 3), 255, np.uint8)]))


def percent_png(percent: np.ndarray) -> bytes:
    """Per cent 0..100 (rows, columns) as PNG of one colour, the more opaque the larger; 0 is transparent, and nothing else is."""
    level = np.ceil(np.asarray(percent, float) * LEVELS / 100).astype(np.uint8)
    alpha = bytes(round(OVERLAY_OPACITY * i / LEVELS) for i in range(LEVELS + 1))
    return _png(level, np.array([OVERLAY] * (LEVELS + 1), np.uint8), transparency=alpha)


def reduce_labels(labels: np.ndarray, factor: int, n_phases: int) -> np.ndarray:
    """Most frequent label of blocks of `factor` a side; the last ones are filled up by repeating the border."""
    return labels if factor == 1 else majority_downsample(_filled(labels, factor), factor, n_phases)


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A file inside a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _sections(plane: str, n_places: int, lr: Volume, sr: Volume, groups: Groups, n_phases: int, uncertainty: Any) -> Sections:
    rows, columns = PLANES[plane]
    (normal,) = {0, 1, 2} - {rows, columns}
    scale = sr.array.shape[normal] // lr.array.shape[normal]
    # centres of equal parts, rounded to LR voxels
    coarse = np.unique(((np.arange(n_places) + 0.5) * lr.array.shape[normal] / n_places).astype(int))
    size = sr.voxel_size
    extent = (sr.array.shape[rows] * size[rows], sr.array.shape[columns] * size[columns])
    factors = {"lr": _factor(lr.array.shape, plane), "sr": _factor(sr.array.shape, plane)}
    found = Sections(extent, [float((i + 0.5) * lr.voxel_size[normal]) for i in coarse], {}, {}, {}, [], factors)

    def add(column: str, pictures: list[np.ndarray], pngs: list[bytes], factor: int, voxel: Sequence[float]) -> None:
        found.pictures[column] = [data_uri(png) for png in pngs]
        found.extents[column] = [(p.shape[0] * factor * voxel[rows], p.shape[1] * factor * voxel[columns]) for p in pictures]
        found.pixels[column] = pictures[0].shape if pictures else (0, 0)
        found.reduced[column] = factor

    for column, volume, at in (("lr", lr, coarse), ("sr", sr, coarse * scale + scale // 2)):
        cut = [reduce_labels(_cut(volume.array, normal, int(i)), factors[column], n_phases) for i in at]
        add(column, cut, [label_png(one) for one in cut], factors[column], volume.voxel_size)
    if uncertainty is not None:
        cut = [_mean(_per_cent(_cut(uncertainty, normal, int(i))), factors["sr"]) for i in coarse * scale + scale // 2]
        add("uncertainty", cut, [percent_png(one) for one in cut], factors["sr"], size)
    windows = _windows(_images(plane, groups), [sr.array.shape[rows], sr.array.shape[columns]], len(coarse))
    factor = max((-(-max(window.shape) // MAX_PIXELS) for _, window in windows), default=1)
    cut = [reduce_labels(window, factor, n_phases) for _, window in windows]
    pngs = [label_png(one) for one in cut]
    # images that stand for all planes: each plane begins with another
    first = 0 if plane in groups else list(PLANES).index(plane)
    turn = [(i + first) % len(windows) for i in range(len(coarse))] if windows else []
    add("hr", [cut[i] for i in turn], [pngs[i] for i in turn], factor, size)
    found.hr_names = [windows[i][0] for i in turn]
    return found


def _images(plane: str, groups: Groups) -> Sequence[np.ndarray]:
    if plane in groups:
        return groups[plane]
    return next((images for group, images in groups.items() if group not in PLANES), [])


def _windows(images: Sequence[np.ndarray], shape: Sequence[int], most: int) -> list[tuple[str, np.ndarray]]:
    """Up to `most` windows of at most `shape` pixels side by side in the images, the first of each image first, and what to call them."""
    parts = []
    for i, image in enumerate(images):
        size = [min(n, side) for n, side in zip(shape, image.shape, strict=True)]
        corners = np.argwhere(np.ones([side // n for n, side in zip(size, image.shape, strict=True)], bool)) * size
        name = f"image {i + 1} of {len(images)}"
        for k, (y, x) in enumerate(corners[:most]):
            part = f", part {k + 1}" if len(corners) > 1 else ""
            parts.append((k, i, name + part, image[y : y + size[0], x : x + size[1]]))
    return [(name, window) for _, _, name, window in sorted(parts, key=lambda part: part[:2])[:most]]


def _cut(array: Any, normal: int, index: int) -> np.ndarray:
    box = [slice(0, n) for n in array.shape]
    box[normal] = slice(index, index + 1)
    return np.asarray(array[tuple(box)]).squeeze(normal)


def _per_cent(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 100):
        what = "holds parts that are not made yet (255)" if high == 255 else f"holds {low} to {high}"
        raise InputError(f"uncertainty_image {what}; per cent, 0 to 100, are needed: finish the inference, or give another file")
    return values


def _factor(shape: Sequence[int], plane: str) -> int:
    return -(-max(shape[axis] for axis in PLANES[plane]) // MAX_PIXELS)


def _filled(values: np.ndarray, factor: int) -> np.ndarray:
    return np.pad(values, [(0, -n % factor) for n in values.shape], mode="edge")


def _mean(values: np.ndarray, factor: int) -> np.ndarray:
    filled = _filled(values, factor)
    return filled.reshape(filled.shape[0] // factor, factor, -1, factor).mean((1, 3)) if factor > 1 else values


def _png(indices: np.ndarray, colours: np.ndarray, **options: Any) -> bytes:
    picture = Image.fromarray(np.ascontiguousarray(indices, dtype=np.uint8)).convert("L")
    picture.putpalette(np.asarray(colours, np.uint8).tobytes())  # makes it one of a palette
    bits = next(bits for bits in (1, 2, 4, 8) if len(colours) <= 1 << bits)
    file = io.BytesIO()
    picture.save(file, "png", bits=bits, optimize=True, **options)
    return file.getvalue()


def _bytes(made: Mapping[str, Sections]) -> int:
    return sum(map(len, {uri for one in made.values() for uris in one.pictures.values() for uri in uris}))  # as the page holds each once
