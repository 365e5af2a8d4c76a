"""Make the shipped sample: a coarse 3D scan and fine 2D images of one synthetic sandstone (see bundle/phantom.py).

    python scripts/make_sample.py --seed 0 --output docs/sample
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import tifffile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle.phantom import FACTOR, VOXEL, low_resolution, sections  # noqa: E402


def write(path: Path, labels: np.ndarray, voxel: float, axes: str) -> None:
    """ImageJ TIFF, uncompressed: ImageJ shows µm, any reader reads it, and its bytes do not depend on a compressor's version."""
    pixels = Fraction(1 / voxel).limit_denominator(1000)  # per µm
    ratio = (pixels.numerator, pixels.denominator)
    metadata = {"axes": axes, "unit": "um", "spacing": voxel}  # without spacing readers take the images' distance for 1 µm
    tifffile.imwrite(path, labels, imagej=True, resolution=(ratio, ratio), metadata=metadata)


def make(seed: int, output: Path, lr_size: int = 64, hr_size: int = 512, images: int = 4) -> None:
    """Write lr.tif, (lr_size,) * 3 voxels of 3.5 µm, and hr.tif, `images` sections of hr_size x hr_size pixels of 0.4375 µm.

    The images come from other realisations than the volume: unpaired, as real data are.
    """
    output.mkdir(parents=True, exist_ok=True)
    write(output / "lr.tif", low_resolution(seed, lr_size), VOXEL * FACTOR, "ZYX")
    write(output / "hr.tif", sections(seed, images, hr_size), VOXEL, "TYX")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("docs/sample"))
    parser.add_argument("--lr-size", type=int, default=64, help="voxels a side of lr.tif")
    parser.add_argument("--hr-size", type=int, default=512, help="pixels a side of hr.tif")
    parser.add_argument("--images", type=int, default=4, help="number of images in hr.tif")
    args = parser.parse_args()
    make(args.seed, args.output, args.lr_size, args.hr_size, args.images)


if __name__ == "__main__":
    main()
