"""High-resolution 2D label images: a TIFF stack, TIFF or PNG images, a folder, a list or a pattern."""

import glob
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bundle.errors import InputError
from bundle.io.files import readable, record_of, suffix_of
from bundle.io.scale import as_pixel_size
from bundle.io.tiff import read_tiff_series
from bundle.io.volume import size_text

IMAGE_SUFFIXES = (".tif", ".tiff", ".png")
JUDGED = ("_gates.png", "_gates_curves.png")  # ends of the pictures that `run gating` leaves beside a verdict
EVALUATED = ("slices.png", "slices_3x.png", "slices_9x.png", "two_point.png", "statistics.png")  # that `run evaluating` leaves beside evaluation.json


def read_images(
    paths: str | Path | Sequence[str | Path], pixel_size: float | Sequence[float] | None = None, axes: Sequence[int] | None = None
) -> tuple[list[np.ndarray], tuple[float, float] | None]:
    """Read 2D images; a page of a TIFF stack is an image.

    Args:
        paths: file, folder (all its .tif, .tiff and .png by name, but for what the runs of this program leave there beside generated images: pictures
            and super-resolved volumes), pattern such as `hr/*.png`, or a list of them.
        pixel_size: µm, a number, (row, column) or (z, y, x); overrides what the files say, but for those that this program made. PNG says nothing.
        axes: of z, y, x along rows and columns; None for images of no one plane.

    Returns:
        images, each (row, column), and the pixel size (row, column) in µm, None where nobody says.

    Raises:
        InputError: nothing found; missing, damaged or colour images; pixel sizes that differ between files, or between one that this program made and
            `pixel_size`.
    """
    given = None if pixel_size is None else as_pixel_size(pixel_size, axes)
    images: list[np.ndarray] = []
    sizes: dict[tuple[float, float], Path] = {}
    for path in image_files(paths):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; check hr_images")
        if suffix_of(path) not in IMAGE_SUFFIXES:
            raise InputError(f"{path}: images are read as {', '.join(IMAGE_SUFFIXES)}; export it as one of them")
        with readable(path):
            arrays, size = (_read_png(path), None) if suffix_of(path) == ".png" else read_tiff_series(path)
        for array in arrays:
            if array.ndim < 2 or array.size == 0:
                raise InputError(f"{path}: an empty image; export it again")
            images.extend(a.astype(a.dtype.newbyteorder("="), copy=False) for a in array.reshape(-1, *array.shape[-2:]))
        if size is not None:
            sizes.setdefault(size[1:], path)
            if given and record_of(path).is_file() and not np.allclose(size[1:], given, rtol=0.01):
                told = f"was made with pixels of {size_text(size[1:])} µm, but hr_voxel_size is {size_text(given)} µm"
                raise InputError(f"{path}: {told}; use images of one size, or make it again with that hr_voxel_size")
    if given:
        return images, given
    for other, path in sizes.items():
        one, first = next(iter(sizes.items()))
        if not np.allclose(one, other, rtol=0.01):  # programs round what they write
            raise InputError(f"{path}: pixel size {other} µm, but {first} has {one}; use images of one size or set hr_voxel_size")
    return images, next(iter(sizes), None)


def image_files(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that a file, folder, pattern or list of them stands for, in order.

    Raises:
        InputError: an empty list or folder, a pattern that nothing fits, or a record beside an image that cannot be read.
    """
    if not isinstance(paths, (str, Path)):
        if not isinstance(paths, Sequence):
            raise InputError(f"hr_images: {paths}; give a file, folder, pattern or list of them")
        if not paths:
            raise InputError("hr_images: an empty list; give at least one image")
        return [file for path in paths for file in image_files(path)]
    path = Path(paths).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if suffix_of(p) in IMAGE_SUFFIXES and not p.name.startswith(".") and not _is_none_of_them(p))
        if not files:
            raise InputError(f"{path}: no images ({', '.join(IMAGE_SUFFIXES)}) in this folder, results of this program aside; check hr_images")
        return files
    if not path.exists() and glob.has_magic(str(path)):
        files = sorted(Path(p) for p in glob.glob(str(path), recursive=True))
        if not files:
            raise InputError(f"{path}: no file fits this pattern; check hr_images")
        return files
    return [path]


def _is_none_of_them(path: Path) -> bool:
    """Whether a file in a folder of images is another result of this program: a picture of the gates, of generated images or of an evaluation, or a
    super-resolved volume or its picture."""
    if path.name.endswith(JUDGED):
        return True
    record = record_of(path)
    if record.is_file():
        with readable(record):
            made_from_scan = "input" in json.loads(record.read_text(encoding="utf-8")).keys()
        return made_from_scan or (suffix_of(path) == ".png" and path.with_suffix(".tif").is_file())
    return path.name in EVALUATED and path.with_name("evaluation.json").is_file()


def _read_png(path: Path) -> list[np.ndarray]:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # a mosaic of a thin section is larger than what Pillow takes for an attack
    try:
        image = Image.open(path)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    with image:
        if len(image.getbands()) > 1:
            raise InputError(f"{path}: a colour image; labels are needed: export it as 8-bit grey with one number a phase")
        return [np.array(image)]  # of a palette the numbers, not the colours
