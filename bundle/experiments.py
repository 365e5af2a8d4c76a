"""The experiments of docs/experiments.md: rock whose truth is known, made, scanned, super-resolved and judged. Run by scripts/experiments.py.

Everything is kept in the folder of the lab and made once: rocks, models, super-resolved volumes. Every model is trained and run by the bundle's own
commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from scipy import ndimage

from bundle import report
from bundle.io import Volume, as_voxel_size, read_images, write_volume
from bundle.io.files import read_volume
from bundle.lab import ARTEFACTS, plant, split_volume, thirds
from bundle.metrics import chord_lengths, compare_curves, statistic_names, statistics, two_point, upsample_nearest
from bundle.phantom import FACTOR, ROCKS, VOXEL, rock, sections
from bundle.workbench import SHIPPED, Lab, Model, checksum_of_labels, trained_on


def phantom(lab: Lab, hr_images: str, count: int = 64, size: int = 512) -> str:
    """How near the Berea-like phantom is to images of the real rock: fractions, areas and two-point curves of `count` sections, one a realisation."""
    real, _ = read_images(hr_images)
    with ProcessPoolExecutor(lab.workers) as pool:
        made = [found[0] for found in pool.map(sections, range(1000, 1000 + 17 * count, 17), [1] * count, [size] * count)]
    phases = rock("berea").phases
    n = len(phases)
    found, wanted = (np.stack([statistics(image, n) for image in images]) for images in (made, real))
    rows = []
    for i, name in enumerate(statistic_names(phases)):
        mean, error, goal = found[:, i].mean(), found[:, i].std(ddof=1) / np.sqrt(count), wanted[:, i].mean()
        rows.append([name, f"{goal:.5f}", f"{mean:.5f} ± {error:.5f}", f"{mean / goal:.2f}"])
    curves = {
        title: np.stack([np.mean([two_point(image, n, axis, size // 3) for axis in (0, 1)], 0) for image in images])
        for title, images in {"images": real, "phantom": made}.items()
    }
    report.plot_curves(lab.folder / "phantom_two_point.png", np.arange(size // 3 + 1) * VOXEL, curves, phases)
    shown = {}
    for name in ROCKS:
        cut = {plane: sections(7, 1, size, rock(name), axis)[0] for plane, axis in (("xy", 0), ("xz", 1), ("yz", 2))}
        shown[f"{name}: {', '.join(rock(name).phases)}"] = (cut, (VOXEL,) * 3)
    report.plot_slices(lab.folder / "phantom.png", shown, phases)
    heads = ["", f"images, mean of {len(real)}", f"phantom, mean of {count} ± its standard error", "ratio"]
    return lab.write("phantom", report.markdown_table(heads, rows))


def base_model(lab: Lab) -> Model:
    """Learns the Berea-like rock from its scan and four images, starting from the shipped weights."""
    data = lab.training_data("berea")
    return lab.train("base", data, rock("berea").phases, lab.epochs, *trained_on(SHIPPED))


def truth(lab: Lab) -> str:
    """Known truth: nearest neighbour, trilinear, the shipped model (which never saw this rock) and one trained on it, on unseen realisations.

    Raises:
        InputError: cells of the physics that do not fill the truth, before anything is made.
    """
    lab.check_cells(FACTOR * lab.test_size)
    models = {"shipped model": SHIPPED, "SR": base_model(lab)}
    return lab.judge("truth", lab.tests("berea"), rock("berea").phases, models, physics=lab.physics, votes=9)


def mse_only(lab: Lab) -> str:
    """The paper's first check: trained on the consistency alone."""
    data, phases = lab.training_data("berea"), rock("berea").phases
    models = {"consistency alone": lab.train("mse_only", data, phases, lab.half_epochs, training=["mse_only.yaml"]), "SR": base_model(lab)}
    return lab.judge("mse_only", lab.tests("berea"), phases, models)


def zero_noise(lab: Lab) -> str:
    """The paper's second check: the noise is zero, in training and inference."""
    data, phases = lab.training_data("berea"), rock("berea").phases
    silent = ["zero_noise.yaml"]
    still = lab.train("zero_noise", data, phases, lab.half_epochs, *trained_on(SHIPPED), training=silent, inference=silent)
    return lab.judge("zero_noise", lab.tests("berea"), phases, {"zero noise": still, "SR": base_model(lab)})


def two_points(lab: Lab) -> str:
    """The paper's third check: two-point correlation of SR against LR, here beside the truth."""
    phases, folder = rock("berea").phases, lab.tests("berea")[0]
    true, lr = read_volume(folder / "truth.tif"), read_volume(folder / "lr.tif")
    model = base_model(lab)
    sr = [lab.super_resolve(model, folder / "lr.tif", seed) for seed in range(lab.seeds)]
    lags = true.array.shape[0] // 2

    def curve(labels: np.ndarray, step: int) -> np.ndarray:
        return np.mean([two_point(labels, len(phases), axis, lags // step) for axis in range(3)], 0)

    seeds = np.stack([curve(volume, 1) for volume in sr])
    fine, coarse = np.arange(lags + 1) * VOXEL, np.arange(lags // FACTOR + 1) * VOXEL * FACTOR
    reference, scan = curve(true.array, 1), curve(lr.array, FACTOR)
    continuous = np.stack([np.interp(fine, coarse, row) for row in scan])
    report.plot_curves(lab.folder / "two_points.png", fine, {"LR": continuous[None], "SR": seeds, "truth": reference[None]}, phases)
    rows = []
    for i, name in enumerate(phases):
        errors = [compare_curves(found[i, 1:], reference[i, every::every])["mean"] for found, every in ((scan, FACTOR), (seeds.mean(0), 1))]
        rows.append([name, *(f"{error:.4f}" for error in errors)])
    return lab.write("two_points", report.markdown_table(["phase", "LR: mean error of S2", "SR"], rows))


def minerals(lab: Lab) -> str:
    """Unseen rock, tight rock and other minerals: the Berea-like model on each, and one that learned the rock for half as long."""
    tables, base = [], base_model(lab)
    for name in ("tight", "carbonate"):
        phases = rock(name).phases
        own = lab.train(
            name, lab.training_data(name), phases, lab.half_epochs, *trained_on(base),
            f"--hidden={ {phases[1]: phases[2]} }", f"--rims={ {phases[3]: phases[0]} }", f"--costs={_costs(*phases)}",
            f"--seen={list(phases[1:])}",
        )  # fmt: skip
        models = {"unseen": base, "own": own}
        tables.append(f"{name}\n\n" + lab.judge(f"minerals_{name}", lab.tests(name), phases, models))
    return "\n".join(tables)


def _costs(pore: str, host: str, second: str, clay: str) -> dict:
    """The costs of configs/train.yaml in the names of another rock."""
    return {pore: {clay: 0.8}, host: {second: 0.9}, second: {pore: 0.6, host: 0.9, clay: 0.7}, clay: {pore: 0.5, host: 0.7, second: 0.7}}


def layering(lab: Lab) -> str:
    """Layered rock with flat grains: the model that takes it for isotropic against one with images of each plane; anisotropy of the pore chords."""
    phases, data = rock("layered").phases, lab.training_data("layered", axes=(0, 1))
    across, along = data / "hr_y.tif", data / "hr_z.tif"
    images = {"xy": str(along), "xz": str(across), "yz": str(across)}
    base = base_model(lab)
    options = (*trained_on(base), f"--hr_images={images}")
    own = lab.train("layered", data, phases, lab.half_epochs, *options, training=["anisotropic.yaml"])
    models = {"isotropic model": base, "images of each plane": own}
    table = lab.judge("layering", lab.tests("layered"), phases, models)
    rows: dict[str, list[str]] = {}
    for folder in lab.tests("layered"):
        volumes = {"truth": read_volume(folder / "truth.tif").array, "nearest": upsample_nearest(read_volume(folder / "lr.tif").array, FACTOR)}
        volumes |= {title: lab.super_resolve(model, folder / "lr.tif") for title, model in models.items()}
        for title, volume in volumes.items():
            z, y, x = (chord_lengths(volume == 0, axis, VOXEL)["mean"] for axis in range(3))
            rows.setdefault(title, []).append("-" if None in (z, y, x) else f"{2 * z / (y + x):.3f}")
    heads = ["pore chord along z / along x, y", *(f"rock {i}" for i in range(lab.realisations))]
    chords = report.markdown_table(heads, [[title, *values] for title, values in rows.items()])
    return lab.write("layering", f"{table}\n{chords}")


def artefacts(lab: Lab) -> str:
    """Errors planted in the scan, followed through the super-resolution: voxels of SR that change, and how far from the truth it gets."""
    phases, folder = rock("berea").phases, lab.tests("berea")[0]
    true, lr = read_volume(folder / "truth.tif"), read_volume(folder / "lr.tif")
    model = base_model(lab)
    clean = lab.super_resolve(model, folder / "lr.tif")
    right = float(np.mean(clean == true.array))
    rows = []
    shown = {"SR, clean scan": (report.middle_slices(clean), true.voxel_size)}
    for name in ARTEFACTS:
        planted = plant(lr.array, name)
        path = folder / f"planted_{name.replace(' ', '_')}.tif"
        write_volume(path, Volume(planted, lr.voxel_size))
        sr = lab.super_resolve(model, path)
        far = upsample_nearest((~ndimage.binary_dilation(planted != lr.array, iterations=2)).astype(np.uint8), FACTOR) == 1
        changed = sr != clean
        away = f"{np.mean(changed[far]):.2%}" if far.any() else "-"
        shares = [f"{np.mean(planted != lr.array):.1%}", f"{np.mean(changed):.1%}", away, f"{right:.1%}", f"{np.mean(sr == true.array):.1%}"]
        rows.append([name, *shares])
        shown[name] = (report.middle_slices(sr), true.voxel_size)
    report.plot_slices(lab.folder / "artefacts.png", shown, phases)
    heads = ("artefact", "LR voxels changed", "SR voxels changed", "SR changed away from the artefact", "SR right, clean", "SR right, with it")
    return lab.write("artefacts", report.markdown_table(heads, rows))


def paired(lab: Lab, path: str, phases: Sequence[str], name: str, voxel_size: float) -> str:
    """A real 3D volume, block-downsampled by 4: learned from one part, judged on another.

    Raises:
        InputError: the volume cannot be read, is too small, or has other labels; no voxel size; cells of the physics that do not fill a cube of it; before
            anything is written.
    """
    name = f"paired_{name}"  # the rocks of our own have folders and models of theirs
    folder, parts = lab.folder / name, thirds(path, 4, len(phases))
    as_voxel_size(voxel_size, "--voxel-size")
    lab.check_cells(min(parts[-1].shape))
    made_of = {"volume": [checksum_of_labels(part) for part in parts], "voxel size": voxel_size, "phases": list(phases)}
    if lab.anew(folder, folder / "hr.tif", made_of):
        split_volume(parts, folder, 4, len(phases), voxel_size)
    tests = [test for test in (folder / f"test_{i}" for i in range(lab.realisations)) if test.exists()]
    options = (f"--hr_images={folder / 'hr.tif'}", "--scale_factor=4", "--feedback_weight=0.5", "--feedback#fractions=60")
    model = lab.train(name, folder / "train", phases, lab.epochs, *options)
    return lab.judge(name, tests, phases, {"SR": model}, scale=4, physics=lab.physics)
