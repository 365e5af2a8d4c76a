"""Experiments on trust: what a learned confusion corrects, and whether a stated chance of being right is met. Run by scripts/experiments.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn
from torch.nn import functional as F

from bundle import report
from bundle.checkpoint import load_checkpoint
from bundle.inferer import WindowInferer
from bundle.io.files import read_volume
from bundle.judging import moved_to_truth, spread
from bundle.losses.confusion import ConfusionConsistency
from bundle.metrics import upsample_nearest, volume_fractions
from bundle.phantom import FACTOR, SECOND, rock
from bundle.provenance import sha256
from bundle.transforms.downsample import block_mean
from bundle.trust import Trust, TrustCounts, reliability
from bundle.votes import agreeing, votes_of
from bundle.workbench import KINDS, ROOT, SHIPPED, Lab, trained_on

SEEDS = 8  # votes of a map of trust, as with `run inference --uncertainty 8`
LEFT_OUT = ", feldspar left out"  # it returns at random places
PASSES = 60  # over the true volumes, until the table of the scanner stays


def confusion(lab: Lab) -> str:
    """Consistencies under equal compute, each from the shipped weights: equal costs, the costs of train.yaml, a confusion that is learned; how much
    of what each changes is put where it belongs, and the learned table beside that of the scanner."""
    data, phases = lab.training_data("berea"), rock("berea").phases
    start, epochs = trained_on(SHIPPED), lab.half_epochs
    models = {
        "equal costs": lab.train("equal_costs", data, phases, epochs, *start, "--costs={}"),
        "costs given": lab.train("costs_given", data, phases, epochs, *start),
        "confusion learned": lab.train("confusion", data, phases, epochs, *start, training=["confusion.yaml"]),
    }
    folders = lab.tests("berea")
    errors = lab.judge("confusion", folders, phases, models)
    moved: dict[str, list[dict]] = {what: [] for what in (*models, *(f"{title}{LEFT_OUT}" for title in models))}
    for folder in folders:
        truth, scan = (read_volume(folder / f"{name}.tif").array for name in ("truth", "lr"))
        nearest = upsample_nearest(scan, FACTOR)
        for title, model in models.items():
            for seed in range(lab.seeds):
                sr = lab.super_resolve(model, folder / "lr.tif", seed)
                for what, volume in ((title, sr), (f"{title}{LEFT_OUT}", np.where(sr == SECOND, nearest, sr))):
                    moved[what].append(moved_to_truth(volume, nearest, truth, len(phases)))
    rows = [[what, *(f"{mean:.1%} ± {deviation:.1%}" for mean, deviation, _ in spread(found).values())] for what, found in moved.items()]
    shares = report.markdown_table(["", "voxels changed", "of these right", "were right", "right by chance"], rows)
    fractions = [volume_fractions(read_volume(data / f"{name}.tif").array, len(phases)).tolist() for name in ("hr", "lr")]
    learned = load_checkpoint(models["confusion learned"].path.with_name("checkpoint.pt"))["consistency"]["table"]
    return lab.write("confusion", f"{errors}\n{shares}\n{_tables(learned, fractions, folders, phases)}")


def _tables(learned: Tensor, fractions: Sequence[Sequence[float]], folders: Sequence[Path], phases: Sequence[str]) -> str:
    """How the scan labels each phase, and a mixture of pore and host: as it was assumed, as it was learned, and as the same rule finds it in the truth."""
    start = ConfusionConsistency(*fractions, FACTOR).table
    truths = [[_onehot(read_volume(folder / f"{name}.tif").array, len(phases)) for name in ("truth", "lr")] for folder in folders]
    of_tests = [torch.cat([pair[i].flatten(2) for pair in truths], 2).mean((0, 2)).tolist() for i in (0, 1)]
    scanner = ConfusionConsistency(*of_tests, FACTOR, memory=float(len(folders)), prior=1e-3)
    shares = [(block_mean(truth, FACTOR), scan) for truth, scan in truths]
    for _ in range(PASSES):
        for share, scan in shares:
            scanner.learn(share, scan)
    rows = []
    for row, (a, b) in enumerate(zip(scanner.first, scanner.second)):
        if a == b or (a, b) == (0, 1):
            name = phases[a] if a == b else f"{phases[a]} with {phases[b]}"
            rows.append([name, *(", ".join(f"{share:.2f}" for share in table[row].tolist()) for table in (start, learned, scanner.table))])
    heads = [f"share labelled {', '.join(phases)}", "at the start", "learned", "in truth"]
    return report.markdown_table(heads, rows)


def _onehot(labels: np.ndarray, n_phases: int) -> Tensor:
    return F.one_hot(torch.from_numpy(labels).long(), n_phases).movedim(-1, 0)[None].float()


def trust(lab: Lab) -> str:
    """Calibrates the votes of the shipped model on unseen rocks, and looks on others, of the same kind and of other kinds, whether what is said is
    met.

    Writes `trust.json`, which `run inference` takes as `trust_file`, and the reliability diagram `trust.png`.
    """
    parser = ConfigParser()
    parser.read_config(str(ROOT / "configs" / "inference.yaml"))
    network, phases = parser.get_parsed_content("network"), rock("berea").phases
    learned = TrustCounts(phases, SEEDS)
    for folder in lab.calibration("berea"):
        learned.add(*_voted(network, folder, len(phases)))
    table = learned.trust({"rock": "synthetic Berea", "voxels": int(learned.voxels.sum()), "model_sha256": sha256(SHIPPED.path)})
    table.save(lab.folder / "trust.json")
    rows, curves = [], {}
    for kind in KINDS:
        said, bare, right = _judged(table, network, lab.tests(kind), len(phases))
        curves[f"{kind}: chance"], curves[f"{kind}: bare votes"] = reliability(said, right), reliability(bare, right)
        sure = said >= 80
        shares = (right.mean(), said.mean() / 100, sure.mean(), right[sure].mean(), said[sure].mean() / 100)
        errors = [f"{curves[f'{kind}: {what}']['error']:.3f}" for what in ("chance", "bare votes")]
        rows.append([kind, *(f"{share:.1%}" for share in shares), *errors])
    shown = {title: curves[title] for title in curves if title.endswith("chance") or title.startswith("berea")}
    report.plot_reliability(lab.folder / "trust.png", shown)
    heads = ["rock", "labels right", "said", "voxels of 80 % and more", "of these right", "said", "error of the chance", "error of the bare votes"]
    return lab.write("trust", report.markdown_table(heads, rows))


def _voted(network: nn.Module, folder: Path, n_phases: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A result, the votes on it, where the scan says the same, and the truth."""
    truth, scan = (read_volume(folder / f"{name}.tif").array for name in ("truth", "lr"))
    made = [WindowInferer(seed=seed, amp=None)(torch.from_numpy(scan)[None, None], network)[0, 0].numpy() for seed in range(SEEDS)]
    return made[0], votes_of(made, n_phases), made[0] == upsample_nearest(scan, FACTOR), truth


def _judged(table: Trust, network: nn.Module, folders: Sequence[Path], n_phases: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all voxels: the chance that is said and the bare share of the votes, per cent, and whether the label is right."""
    parts = []
    for folder in folders:
        labels, votes, same, truth = _voted(network, folder, n_phases)
        said, bare = table.percent(labels, votes, SEEDS, same), np.rint(100 / SEEDS * agreeing(labels, votes))
        parts.append([said.ravel(), bare.ravel(), (labels == truth).ravel()])
    said, bare, right = (np.concatenate(part) for part in zip(*parts))
    return said, bare, right
