"""NRRD, MHA and MHD: read by itk; MHA and MHD + raw written. None of them has a unit: the numbers are µm in this project."""

import logging
import re
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


def read_itk(path: Path) -> Volume:
    """Read NRRD, MHA or MHD. Spacing and origin are µm, unless a NRRD names its units; no spacing at all means unknown."""
    import itk  # takes a second to import, and only these formats need it

    # named, as itk does not know a suffix in capitals
    image_io = itk.NrrdImageIO if path.suffix.lower() == ".nrrd" else itk.MetaImageIO
    image = itk.imread(str(path), imageio=image_io.New())
    array = itk.array_from_image(image)
    if array.ndim != 3 or image.GetImageDimension() != 3:
        return Volume(array)
    with open(path, "rb") as file:
        header = file.read(4096)
    # ITK reports 1 for a spacing that is not there.
    if not re.search(rb"^(ElementSpacing|ElementSize|spacings|space directions)\b", header, re.MULTILINE):
        return Volume(array)
    named = re.search(rb'^(?:space )?units:\s*"([^"]+)"', header, re.MULTILINE)
    unit = micrometres(named[1].decode(errors="replace")) if named else 1.0
    if unit is None:
        raise InputError(f"{path}: its unit {named[1].decode(errors='replace')!r} is not known; use um or mm, or leave it out for µm")
    directions = itk.array_from_matrix(image.GetDirection()) @ np.diag(list(image.GetSpacing()))
    size, origin, turned = upright(directions * unit, np.array(list(image.GetOrigin())) * unit)
    if turned:
        logger.warning("%s: its axes are turned in space; the voxels are taken in file order and the direction and origin dropped", path)
    return Volume(array, size[::-1], origin[::-1])


def write_metaimage(path: Path, volume: Volume) -> None:
    """Write .mhd with its voxels in a .raw of the same name, or .mha with both in one file.

    The header is written here, as ITK would hold the whole array and name its temporary file in it.

    Raises:
        InputError: the volume has no voxel size, as the format cannot say that it is unknown.
    """
    if volume.voxel_size is None:
        raise InputError(f"{path}: MetaImage needs a voxel size; set lr_voxel_size in µm or write .tif")
    local = path.suffix.lower() == ".mha"
    header = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "CompressedData": False,
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": " ".join(repr(v) for v in volume.origin[::-1]),
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
