"""Run an experiment of docs/experiments.md: make the rock, train, super-resolve, judge against the truth, write the table and the picture.

    python scripts/experiments.py truth --output lab
    python scripts/experiments.py phantom --hr-images hr_real_0.4375um.tif --output lab
    python scripts/experiments.py hr_sources --lr-image lr_3.5um.tif --hr-images hr_real_0.4375um.tif --hr-others hr_generated_0.4375um.tif --output lab
    python scripts/experiments.py confusion --output lab
    python scripts/experiments.py grains --output lab
    python scripts/experiments.py trust --output lab
    python scripts/experiments.py factors --lr-image lr_3.5um.tif --hr-images hr_real_0.4375um.tif --output lab
    python scripts/experiments.py campaign --lr-image lr_3.5um.tif --hr-images hr_real_0.4375um.tif --output lab
    python scripts/experiments.py paired --volume berea.tif --name berea3d --phases pore grain --voxel-size 5.345 --output lab
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle import campaign, experiments, factor_experiments, hidden_experiments, image_experiments, trust_experiments  # noqa: E402
from bundle.errors import one_line_errors  # noqa: E402
from bundle.workbench import Lab  # noqa: E402

ELSEWHERE = {"confusion": trust_experiments, "trust": trust_experiments, "grains": hidden_experiments}
ROCKS_OF_OUR_OWN = ("truth", "mse_only", "zero_noise", "two_points", "minerals", "layering", "artefacts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", choices=["phantom", *ROCKS_OF_OUR_OWN, *ELSEWHERE, "hr_sources", "factors", "campaign", "paired"])
    parser.add_argument("--output", type=Path, required=True, help="folder of everything that is made; what is there is used again")
    parser.add_argument("--epochs", type=int, default=20, help="of 50 generator steps, for the first model, half of them for the others; of each model in paired, hr_sources, factors and campaign")
    parser.add_argument("--realisations", type=int, default=3, help="unseen rocks")
    parser.add_argument("--seeds", type=int, default=3, help="of the noise, for each unseen rock")
    parser.add_argument("--train-size", type=int, default=72, help="edge of the scan to learn from, coarse voxels")
    parser.add_argument("--test-size", type=int, default=40, help="edge of an unseen scan, coarse voxels")
    parser.add_argument("--hr-size", type=int, default=1024, help="edge of the images, fine pixels")
    parser.add_argument("--no-physics", action="store_true", help="leave out flow, conduction and elasticity")
    parser.add_argument("--coarsening", type=int, default=4, help="fine voxels along the edge of a cell of the physics")
    parser.add_argument("--workers", type=int, default=2, help="processes that make rock")
    parser.add_argument("--hr-images", help="phantom, hr_sources, factors, campaign: file or folder of images of the real rock")
    parser.add_argument("--lr-image", help="hr_sources, factors, campaign: scan of the real rock")
    parser.add_argument("--hr-others", help="hr_sources: images that another generator made of it")
    parser.add_argument("--left-out", type=int, default=0, help="hr_sources: which image is kept out of the trainings")
    parser.add_argument("--generator-epochs", type=int, default=50, help="hr_sources: of 100 steps")
    parser.add_argument("--trials", nargs="+", choices=list(campaign.TRIALS), default=[], help="campaign: which; all unless given")
    parser.add_argument("--volume", help="paired: file of a real 3D volume")
    parser.add_argument("--name", help="paired: of its folder")
    parser.add_argument("--phases", nargs="+", help="paired, hr_sources, factors, campaign: names of the labels")
    parser.add_argument("--voxel-size", type=float, help="paired: µm")
    args = parser.parse_args()
    one_line_errors()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    lab = Lab(
        args.output.resolve(), realisations=args.realisations, seeds=args.seeds, train_size=args.train_size, test_size=args.test_size,
        hr_size=args.hr_size, epochs=args.epochs, physics=not args.no_physics, coarsening=args.coarsening, workers=args.workers,
    )  # fmt: skip
    scan_and_images = ("lr_image", "hr_images")
    needed = {
        "paired": ("volume", "name", "phases", "voxel_size"), "phantom": ("hr_images",), "hr_sources": scan_and_images, "factors": scan_and_images,
        "campaign": scan_and_images,
    }.get(args.experiment, ())  # fmt: skip
    missing = [f"--{key.replace('_', '-')}" for key in needed if getattr(args, key) is None]
    if missing:
        parser.error(f"{args.experiment} needs {', '.join(missing)}")
    phases = args.phases or experiments.rock("berea").phases
    if args.experiment == "phantom":
        table = experiments.phantom(lab, args.hr_images)
    elif args.experiment == "factors":
        table = factor_experiments.factors(lab, args.lr_image, args.hr_images, phases)
    elif args.experiment == "campaign":
        table = campaign.campaign(lab, args.lr_image, args.hr_images, phases, args.trials)
    elif args.experiment == "hr_sources":
        table = image_experiments.hr_sources(
            lab, args.lr_image, args.hr_images, args.hr_others, phases, left_out=args.left_out, generator_epochs=args.generator_epochs
        )
    elif args.experiment == "paired":
        table = experiments.paired(lab, args.volume, args.phases, args.name, args.voxel_size)
    else:
        table = getattr(ELSEWHERE.get(args.experiment, experiments), args.experiment)(lab)
    print(table)


if __name__ == "__main__":
    main()
