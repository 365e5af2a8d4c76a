"""The formats of `bundle.io` for MONAI's LoadImage and SaveImage."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.config import PathLike
from monai.data import ImageReader, ImageWriter
from monai.utils import ImageMetaKey, MetaKeys, convert_data_type, ensure_tuple

from bundle.errors import InputError
from bundle.io.files import READERS, format_of, in_memory, open_volume, write_volume
from bundle.io.region import region_slices
from bundle.io.volume import Volume, as_voxel_size


class VolumeReader(ImageReader):
    """Read one volume, or a region of it, as an array (z, y, x) whose affine is in the same order and in µm.

    Args:
        voxel_size: µm, a number or (z, y, x); overrides the file.
        key: of the voxel size in the config, for the message where neither has one.
        region: [[z0, z1], [y0, y1], [x0, x1]] in voxels; None is all. Of formats that are read in parts no more is read.
    """

    def __init__(
        self, voxel_size: float | Sequence[float] | None = None, key: str = "lr_voxel_size", region: Sequence[Sequence[int]] | None = None
    ) -> None:
        self.voxel_size = None if voxel_size is None else as_voxel_size(voxel_size, key)
        self.key, self.region = key, region

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return all(format_of(name) in READERS for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs) -> tuple[PathLike, ...]:
        """Only take the name: where `read` fails LoadImage goes on to other readers, which read one page of a stack or a broken file."""
        return ensure_tuple(data)

    def get_data(self, img: tuple[PathLike, ...]) -> tuple[np.ndarray, dict]:
        """Read the volume.

        Returns:
            array (z, y, x) and metadata: affine, original_affine, spatial_shape, original_channel_dim, filename_or_obj and
            voxel_size in µm (z, y, x).

        Raises:
            InputError: as `read_volume`; no voxel size in the file nor in the config; a region outside the volume.
        """
        if len(img) != 1:
            raise InputError(f"{', '.join(str(name) for name in img)}: one volume is read at a time; give one file")
        volume = open_volume(img[0], self.voxel_size)
        if volume.voxel_size is None:
            raise InputError(f"{img[0]}: does not state its voxel size; set {self.key} in µm")
        volume = in_memory(img[0], volume, region_slices(volume.array.shape, self.region))
        meta = {
            MetaKeys.AFFINE: volume.affine,
            MetaKeys.ORIGINAL_AFFINE: volume.affine,
            MetaKeys.SPATIAL_SHAPE: np.array(volume.array.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel",
            ImageMetaKey.FILENAME_OR_OBJ: str(img[0]),
            "voxel_size": volume.voxel_size,
        }
        return volume.array, meta


class VolumeWriter(ImageWriter):
    """Write one channel with an affine in array order and µm, as `VolumeReader` and `super_resolved_affine` make it.

    Args:
        output_dtype: of the file; None leaves it as it is.
        scale: of SaveImage (to 0..255); not for labels and refused.
    """

    def __init__(self, output_dtype=np.uint8, scale: int | None = None, **kwargs) -> None:
        super().__init__(output_dtype=output_dtype, **kwargs)
        if scale is not None:
            raise InputError("SaveImage's scale would change the labels; leave it out")

    def set_data_array(self, data_array: np.ndarray | torch.Tensor, channel_dim: int | None = 0, **kwargs) -> None:
        array = convert_data_type(data_array, np.ndarray)[0]
        if channel_dim is not None:
            if array.shape[channel_dim] != 1:
                raise InputError(f"{array.shape[channel_dim]} channels; a file takes one: save labels, or one channel a file")
            array = array.squeeze(channel_dim)
        self.data_obj = array if self.output_dtype is None else array.astype(self.output_dtype, copy=False)

    def set_metadata(self, meta_dict: Mapping | None = None, resample: bool = False, **options) -> None:
        if resample:
            raise InputError("SaveImage's resample would shrink the result to the grid of the input; set resample to false")
        affine = (meta_dict or {}).get(MetaKeys.AFFINE)
        if affine is None:
            raise InputError("no affine, so no voxel size to write; save a MetaTensor as VolumeReader makes it")
        self.data_obj = Volume.from_affine(self.data_obj, convert_data_type(affine, np.ndarray)[0])

    def write(self, filename: PathLike, verbose: bool = True, **kwargs) -> None:
        super().write(filename, verbose=verbose)
        write_volume(filename, self.data_obj)
