"""NRRD, MHA and MHD: read by itk; MHA and MHD + raw written. Where they name no unit the numbers are µm in this project."""

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bundle.errors import InputError
from bundle.io.atomic import atomic_path
from bundle.io.raw import write_voxels
from bundle.io.volume import Volume, micrometres, upright

logger = logging.getLogger(__name__)

_ELEMENT_TYPES = {"uint8": "MET_UCHAR", "int16": "MET_SHORT", "uint16": "MET_USHORT", "int32": "MET_INT", "float32": "MET_FLOAT",
                  "float64": "MET_DOUBLE"}  # fmt: skip
HEADER = 2**20  # bytes in which a header ends
LPS = (1, -1, -1)  # signs (z, y, x) of the axes of ITK's world, which point to superior, posterior and left


def read_itk(path: Path) -> Volume:
    """Read NRRD, MHA or MHD. Spacing and origin are µm, unless the file names units (`units`, `space units`, `DistanceUnits`); no spacing at all, or
    one that is not a number, means unknown.

    Raises:
        InputError: a unit that is not known; the file of the voxels is missing.
        OSError: ITK cannot read it.
    """
    import itk  # takes a second to import, and only these formats need it

    header = _header(path)
    voxels = header.get("ElementDataFile") or header.get("data file") or header.get("datafile") or "LOCAL"
    if voxels.upper() != "LOCAL" and not voxels.startswith("LIST") and "%" not in voxels and not (path.parent / voxels).exists():
        raise InputError(f"{path}: only the header; {voxels}, which it names for the voxels, is not there: copy both, under their names")
    # named, as itk does not know a suffix in capitals
    image_io = itk.NrrdImageIO if path.suffix.lower() == ".nrrd" else itk.MetaImageIO
    try:
        image = itk.imread(str(path), imageio=image_io.New())
    except RuntimeError as error:  # its first line is a place in the source of ITK, its last the reason
        raise OSError(str(error).strip().splitlines()[-1]) from error
    array = itk.array_from_image(image)
    if array.ndim != 3 or image.GetImageDimension() != 3:
        return Volume(array)
    # ITK reports 1 for a spacing that is not there, or is none.
    spacing = [header[name] for name in ("ElementSpacing", "ElementSize", "spacings", "space directions") if name in header]
    if not spacing or "nan" in " ".join(spacing).lower():
        return Volume(array)
    unit = np.array(_units(path, header))[:, np.newaxis]  # of the coordinates, the rows of the directions
    directions = itk.array_from_matrix(image.GetDirection()) @ np.diag(list(image.GetSpacing()))
    size, origin, signs = upright(directions * unit, np.array(list(image.GetOrigin())) * unit[:, 0])
    if signs is None:
        logger.warning("%s: its axes are turned in space; the voxels are taken in file order and the direction and origin dropped", path)
    return Volume(array, size[::-1], origin[::-1], signs and _between_worlds(signs[::-1]))


def _between_worlds(signs: Sequence[int]) -> tuple[int, ...]:
    """Signs (z, y, x) of axes in the world of ITK from those in that of NIfTI, and back."""
    return tuple(sign * other for sign, other in zip(signs, LPS))


def _header(path: Path) -> dict[str, str]:
    """Fields of a header: of NRRD up to the first empty line, of MetaImage up to the one that says where the voxels are."""
    fields: dict[str, str] = {}
    with open(path, "rb") as file:
        lines = file.read(HEADER).splitlines()
    for line in lines:
        field = re.match(r"([^:=]+?)\s*[:=]\s*(.*?)\s*$", line.decode(errors="replace"))
        if field:
            fields[field[1]] = field[2]
        if not line.strip() or "ElementDataFile" in fields:
            break
    return fields


def _units(path: Path, header: Mapping[str, str]) -> list[float]:
    """µm in the unit of each axis (x, y, z); 1 where none is named."""
    named = re.findall('"([^"]*)"', header.get("space units") or header.get("units") or "") or [header.get("DistanceUnits", "")] * 3
    units = [micrometres(name) if name else 1.0 for name in named]
    if None in units:
        raise InputError(f"{path}: its unit {named[units.index(None)]!r} is not known; use um or mm, or leave it out for µm")
    return units


def write_metaimage(path: Path, volume: Volume) -> None:
    """Write .mhd with its voxels in a .raw of the same name, or .mha with both in one file; an axis of which nobody said where it runs is written
    forward.

    The header is written here, as ITK would hold the whole array and name its temporary file in it.

    Raises:
        InputError: the volume has no voxel size, as the format cannot say that it is unknown.
    """
    if volume.voxel_size is None:
        raise InputError(f"{path}: MetaImage needs a voxel size; set lr_voxel_size in µm or write .tif")
    local = path.suffix.lower() == ".mha"
    x, y, z = _between_worlds(volume.signs or LPS)[::-1]
    header = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "CompressedData": False,
        "TransformMatrix": f"{x} 0 0 0 {y} 0 0 0 {z}",
        "Offset": " ".join(repr(sign * v + 0.0) for sign, v in zip((x, y, z), volume.origin[::-1])),
        "ElementSpacing": " ".join(repr(v) for v in volume.voxel_size[::-1]),
        "DimSize": " ".join(str(n) for n in volume.array.shape[::-1]),
        "ElementType": _ELEMENT_TYPES[volume.array.dtype.name],
        "ElementDataFile": "LOCAL" if local else path.with_suffix(".raw").name,
    }
    text = "".join(f"{key} = {value}\n" for key, value in header.items()).encode()
    with ExitStack() as stack:
        # left in reverse order: the voxels are in place before the header that names them
        target = stack.enter_context(atomic_path(path)).open("wb")
        stack.callback(target.close)
        target.write(text)
        if not local:
            target.close()
            target = stack.enter_context(atomic_path(path.with_suffix(".raw"))).open("wb")
            stack.callback(target.close)
        write_voxels(target, volume.array)
