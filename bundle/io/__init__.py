"""Read and write rock volumes and images: array (z, y, x), labels uint8 0..n-1, voxel size in µm."""

from bundle.io.atomic import atomic_path, write_text
from bundle.io.files import read_volume, write_volume
from bundle.io.images import read_images
from bundle.io.labels import check_labels
from bundle.io.monai_io import VolumeReader, VolumeWriter
from bundle.io.volume import Volume, as_voxel_size, super_resolved_affine

__all__ = [
    "Volume",
    "VolumeReader",
    "VolumeWriter",
    "as_voxel_size",
    "atomic_path",
    "check_labels",
    "read_images",
    "read_volume",
    "super_resolved_affine",
    "write_text",
    "write_volume",
]
