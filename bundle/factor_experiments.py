"""The experiment on 16x and 32x: the same rock from coarser and coarser scans. Run by scripts/experiments.py; see bundle/workbench.py for the lab."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bundle import judging, report
from bundle.image_experiments import noted, parted
from bundle.io import Volume, read_images, read_volume, write_volume
from bundle.io.images import image_files
from bundle.metrics import statistic_names, statistics, upsample_nearest
from bundle.metrics.gates import two_point_curves
from bundle.phantom import FACTOR
from bundle.pyramid import majority_pyramid
from bundle.workbench import SHIPPED, Lab, checksum, checksum_of_labels


def factors(lab: Lab, lr_image: str, hr_images: str, phases: Sequence[str], finer: Sequence[int] = (16, 32)) -> str:
    """The shipped 8x model beside models that learn 16x and 32x from the same scan, coarsened by majority; one place, the same fine voxels.

    Args:
        lab: its `epochs` are those of each finer model.
        lr_image: scan of the rock that the shipped model learned, 8 times coarser than the images.
        hr_images: of the rock.
        phases: names of the labels.
        finer: factors beyond 8, each with a config of its own (`16x.yaml`).
    """
    real, _ = read_images(hr_images)
    n, parts = len(phases), parted(lr_image, len(phases))
    coarse = parts[0].voxel_size
    pixel = coarse[0] / FACTOR if coarse else 1.0  # images seldom tell theirs
    known = {"phases": list(phases), "images": checksum(*image_files(hr_images))}
    found, values, curves, shown = {}, {"HR images": np.mean([statistics(image, n) for image in real], 0)}, {}, {}
    for factor in (FACTOR, *finer):
        folder = lab.folder / "factors" / f"{factor}x"
        coarsened(lab, folder, parts, n, factor)
        model = SHIPPED
        if factor != FACTOR:
            config = (f"{factor}x.yaml",)
            model = lab.train(
                f"factor_{factor}x", folder / "train", phases, lab.epochs, f"--hr_images={Path(hr_images).resolve()}",
                training=config, inference=config,
            )  # fmt: skip
        lr = folder / "test" / "lr.tif"
        scan = read_volume(lr).array
        nearest = upsample_nearest(scan, factor)
        fine = lab.super_resolve(model, lr, scale=factor)
        for title, key, sr in ((f"nearest {factor}x", f"nearest_{factor}x", nearest), (f"{factor}x", model.key, fine)):
            settings = known | {"scan": checksum_of_labels(scan), "volume": checksum_of_labels(sr)}
            found[title] = lab.kept(folder, f"judged_{key}", settings, lambda: judging.likeness(sr, scan, factor, real, phases))
            values[title] = statistics(sr, n)
        curves[f"{factor}x"] = two_point_curves(judging.sections(sr), n)[None, :, : judging.LAGS]
        shown[f"{factor}x: scan"] = (report.middle_slices(nearest), (pixel,) * 3)
        shown[f"{factor}x"] = (report.middle_slices(sr), (pixel,) * 3)
    of_images = [two_point_curves([image], n) for image in real]
    lags = min(curve.shape[1] for curve in of_images)  # images may differ in size
    curves["HR images"] = np.stack([curve[:, :lags] for curve in of_images])
    lags = min(curve.shape[2] for curve in curves.values())
    report.plot_curves(lab.folder / "factors_two_point.png", pixel * np.arange(lags), {name: c[:, :, :lags] for name, c in curves.items()}, phases)
    report.plot_slices(lab.folder / "factors.png", shown, phases)
    heads = ["", "statistics", "two-point", "AUC", "LR pore kept"]
    rows = [[title, f"{one['statistics']:.1%}", f"{one['two_point']:.4f}", f"{one['auc']:.2f} ± {one['auc_error']:.2f}", f"{one['pore']:.1%}"]
            for title, one in found.items()]  # fmt: skip
    each = [[name, *(f"{value[i]:.5f}" for value in values.values())] for i, name in enumerate(statistic_names(phases))]
    tables = [report.markdown_table(heads, rows), report.markdown_table(["statistic", *values], each)]
    return lab.write("factors", "\n".join(tables))


def coarsened(lab: Lab, folder: Path, parts: tuple[Volume, Volume], n_phases: int, factor: int) -> None:
    """The parts of the scan to learn from and to judge on, with voxels factor / 8 times larger."""
    (learned, judged), coarsening = parts, factor // FACTOR
    if not lab.anew(folder, folder / "train" / "lr.tif", noted(learned, judged)):
        return
    for name, part in (("test", judged), ("train", learned)):
        size = None if part.voxel_size is None else tuple(coarsening * v for v in part.voxel_size)
        pyramid = [part.array, *majority_pyramid(part.array, n_phases, coarsening.bit_length() - 1)]
        write_volume(folder / name / "lr.tif", Volume(pyramid[-1], size))
