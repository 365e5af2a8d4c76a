"""Make a synthetic rock: a coarse 3D scan with its errors, fine 2D images of the same rock elsewhere and, on demand, the fine truth.

    python scripts/make_phantom.py --seed 0 --output docs/sample                                              # the shipped sample
    python scripts/make_phantom.py --rock layered --seed 3 --lr-size 48 --images 0 --truth --output layered   # with the truth behind the scan
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle.errors import one_line_errors  # noqa: E402
from bundle.lab import write_phantom  # noqa: E402
from bundle.phantom import ROCKS  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    seed_help = "of the rock; the images are of the rocks of the seeds after it, so let seeds lie 10 apart"
    parser.add_argument("--seed", type=int, default=0, help=seed_help)
    parser.add_argument("--output", type=Path, default=Path("docs/sample"))
    parser.add_argument("--rock", default="berea", help=f"one of {', '.join(ROCKS)}")
    parser.add_argument("--lr-size", type=int, default=64, help="voxels a side of lr.tif")
    parser.add_argument("--hr-size", type=int, default=512, help="pixels a side of an image")
    parser.add_argument("--images", type=int, default=4, help="number of images; 0 makes none")
    axes_help = "the images are normal to these axes (0 = z); one file an axis where there are several"
    parser.add_argument("--axes", type=int, nargs="+", default=[0], choices=(0, 1, 2), help=axes_help)
    parser.add_argument("--truth", action="store_true", help="write the fine volume too")
    parser.add_argument("--workers", type=int, default=1, help="processes that make the rock")
    args = parser.parse_args()
    one_line_errors()
    write_phantom(args.output, args.rock, args.seed, args.lr_size, args.hr_size, args.images, args.axes, args.truth, args.workers)


if __name__ == "__main__":
    main()
