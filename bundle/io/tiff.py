"""TIFF stacks: read with any of the usual voxel sizes, written for ImageJ (up to 4 GB) or as OME-BigTIFF."""

import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile

from bundle.errors import InputError
from bundle.io.atomic import atomic_path
from bundle.io.raw import planes
from bundle.io.volume import Volume, micrometres, significant

logger = logging.getLogger(__name__)

# ImageJ reads neither BigTIFF nor more than 4 GB; the margin is for the tags (the same as tifffile's own).
IMAGEJ_MAX_BYTES = 2**32 - 2**25
IMAGEJ_DTYPES = ("uint8", "uint16", "float32")
# A plain TIFF states its resolution for a printer: 1200 dots per inch are 21 µm. Only a finer one is taken as a voxel size.
PRINT_PIXEL_UM = 21.0


@contextmanager
def _damage_is_an_error(path: Path) -> Iterator[None]:
    """tifffile logs what is broken in a file and reads the rest, with pages lost or zeroed. Here that is an error."""
    damage: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.levelno >= logging.ERROR or "corrupted" in message or "zeroed" in message:
            damage.append(message)
        return False

    log = logging.getLogger("tifffile")
    log.addFilter(keep)
    try:
        yield
    finally:
        log.removeFilter(keep)
    if damage:
        raise InputError(f"{path}: damaged or incomplete TIFF ({damage[0].splitlines()[0]}); copy or export it again")


def read_tiff_series(path: Path) -> tuple[list[np.ndarray], tuple[float, float, float] | None]:
    """Read every image series of a TIFF: usually one, a stack of pages or a single page.

    Four (or three) pages written as the colour planes of one image, which tifffile does to a stack of that length, are
    pages again.

    The voxel size is looked for in this order: OME-XML; ImageJ's `unit`, `spacing` and resolution tags (no `spacing`
    means one unit, as in ImageJ, and is warned of); the same keys in tifffile's own JSON description; the resolution in
    dots per inch or cm, if below 21 µm, since a coarser one (72, 300 dpi) is a default made for printers: such a one is
    that of the pixels beside a `unit`, too. Where the distance of the slices is not stated it is the pixel size.

    Returns:
        arrays, each (..., y, x), and the voxel size (z, y, x) in µm or None.

    Raises:
        InputError: colour images; pages that are missing or cut off.
    """
    with _damage_is_an_error(path), tifffile.TiffFile(path) as file:
        _refuse_colour(path, file)
        return [series.asarray() for series in file.series], _voxel_size(file)


def open_tiff(path: Path) -> Volume:
    """A stack of pages as a volume whose pages are read when they are asked for; see `read_tiff_series`. TIFF has no origin: it is 0."""
    with _damage_is_an_error(path):
        file = tifffile.TiffFile(path)
        _refuse_colour(path, file)
        if len({(series.shape, series.dtype) for series in file.series}) > 1:
            raise InputError(f"{path}: its pages differ in size or type; a volume needs equal pages: save it as one stack")
        first, voxel_size = file.series[0], _voxel_size(file)
        if len(file.series) == 1 and first.dataoffset is not None:  # not compressed, page after page
            array = np.memmap(path, first.dtype.newbyteorder(file.byteorder), "r", first.dataoffset, first.shape)
        else:
            pages = [page for series in file.series for page in series.pages]
            stacked = [n for n in (len(file.series), *first.shape[:-2]) if n > 1]
            if len(stacked) == 1 and len(pages) == stacked[0]:
                return Volume(TiffPages(path, pages, first.dtype), voxel_size)
            array = np.stack([series.asarray() for series in file.series]) if len(file.series) > 1 else first.asarray()
    while array.ndim > 3 and 1 in array.shape[:-2]:  # time and channel axes of length 1
        array = array.squeeze(array.shape.index(1))
    return Volume(array, voxel_size)


class TiffPages:
    """The pages of a compressed stack as an array (z, y, x) that reads what it is asked for, and keeps the pages that it used last.

    Args:
        path: of the file, for the message.
        pages: of the open file.
        dtype: of the voxels.
        memory: bytes of the pages that are kept.
    """

    def __init__(self, path: Path, pages: Sequence[tifffile.TiffPage], dtype: np.dtype, memory: int = 2**29):
        self.path, self.pages, self.dtype = path, pages, dtype.newbyteorder("=")
        self.shape = (len(pages), *pages[0].shape)
        self.ndim, self.size = len(self.shape), int(np.prod(self.shape))
        self._most = max(1, memory // max(1, int(np.prod(self.shape[1:])) * dtype.itemsize))
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def __getitem__(self, box: tuple[slice, slice, slice]) -> np.ndarray:
        """Slices of step 1 along z, y and x.

        Raises:
            InputError: a page is damaged.
        """
        z, y, x = box
        numbers, (height, width) = range(*z.indices(len(self.pages))), self.shape[1:]
        result = np.empty((len(numbers), len(range(*y.indices(height))), len(range(*x.indices(width)))), self.dtype)
        for plane, number in zip(result, numbers):
            plane[...] = self._page(number)[y, x]
        return result

    def _page(self, i: int) -> np.ndarray:
        if i not in self._kept:
            with _damage_is_an_error(self.path):
                self._kept[i] = self.pages[i].asarray()
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(i)
        return self._kept[i]


def write_tiff(path: Path, volume: Volume) -> None:
    """Write an ImageJ TIFF (voxel size in um) or, above 4 GB or for a type that ImageJ lacks, an OME-BigTIFF (in µm).

    TIFF has no place for the origin: it is not kept.
    """
    options: dict = {"metadata": {"axes": "ZYX"}}  # without axes tifffile makes one colour image of 3 or 4 pages
    if volume.array.size * volume.array.dtype.itemsize <= IMAGEJ_MAX_BYTES and volume.array.dtype.name in IMAGEJ_DTYPES:
        options["imagej"] = True
        if volume.voxel_size:
            z, y, x = volume.voxel_size
            options["resolution"] = (1 / x, 1 / y)
            options["metadata"] |= {"spacing": z, "unit": "um"}
    else:
        options |= {"ome": True, "bigtiff": True}
        for axis, size in zip("ZYX", volume.voxel_size or ()):
            options["metadata"] |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, planes(volume.array), shape=volume.array.shape, dtype=volume.array.dtype, **options)


def _refuse_colour(path: Path, file: tifffile.TiffFile) -> None:
    if any(series.axes.endswith("S") for series in file.series):
        raise InputError(f"{path}: a colour image; labels are needed: export it as 8-bit with one number a phase")


def _voxel_size(file: tifffile.TiffFile) -> tuple[float, float, float] | None:
    page = file.pages.first
    if file.is_ome:
        return _ome_voxel_size(file.ome_metadata)
    described = file.imagej_metadata if file.is_imagej else (file.shaped_metadata or [{}])[0]
    described = described or {}
    unit = micrometres(described.get("unit"))
    y, x = (_unit_per_pixel(page, tag) for tag in ("YResolution", "XResolution"))
    spacing = abs(float(described.get("spacing") or 0)) or None
    stated = {2: 25400.0, 3: 10000.0}.get(page.resolutionunit)
    if stated is None or x is None or stated * x > PRINT_PIXEL_UM:
        stated = None
    if unit and file.is_imagej:
        if spacing is None and len(file.pages) > 1:
            logger.warning("%s: ImageJ states no spacing of the slices, so it is 1 %s; if that is wrong, set the voxel size in "
                           "the config", file.filename, described["unit"])  # fmt: skip
            spacing = 1.0
    elif unit:
        # tifffile writes 1/1 without a unit where no resolution was given
        if page.resolutionunit == 1 and y == x == 1:
            y = x = spacing
    else:
        spacing = None
    of_pixels = stated or unit
    if not of_pixels or not x or not y:
        return None
    return tuple(significant(v) for v in (unit * spacing if unit and spacing else of_pixels * x, of_pixels * y, of_pixels * x))


def _unit_per_pixel(page: tifffile.TiffPage, tag: str) -> float | None:
    pixels, units = page.tags.valueof(tag, default=(0, 0))
    return units / pixels if pixels and units else None


def _ome_voxel_size(xml: str) -> tuple[float, float, float] | None:
    image = tifffile.xml2dict(xml)["OME"]["Image"]
    pixels = (image[0] if isinstance(image, (list, tuple)) else image)["Pixels"]
    sizes = []
    for axis in "ZYX":
        unit = micrometres(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        size = pixels.get(f"PhysicalSize{axis}")
        sizes.append(significant(float(size) * unit) if size and unit else None)
    z, y, x = sizes
    return (z or x, y, x) if x and y else None
