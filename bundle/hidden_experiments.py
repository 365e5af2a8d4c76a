"""Experiment on hidden phases: is what returns where it belongs? Run by scripts/experiments.py."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bundle import report
from bundle.io.files import read_volume
from bundle.metrics import majority_downsample, volume_fractions
from bundle.metrics.truth import voxel_agreement
from bundle.networks.hidden import HiddenPhases
from bundle.networks.shares import hidden_shares, rim_labels
from bundle.phantom import CLAY, FACTOR, HOST, PORE, SECOND, rock
from bundle.workbench import KINDS, Lab

RADIUS = 16  # LR voxels, as in train.yaml


def grains(lab: Lab) -> str:
    """Of scans of unseen rocks, as they are and with as much of the second mineral brought back as they lost, grain by grain: by noise alone, and where
    the scan saw some first, then with rims of clay turned to pore; against the majority of the truth in each voxel of the scan. How much is lost, and how much
    clay is too much, is taken from the truth of all."""
    rows = []
    for kind in KINDS:
        phases = rock(kind).phases
        pairs = [[read_volume(folder / f"{name}.tif").array for name in ("lr", "truth")] for folder in lab.tests(kind)]
        pairs = [(scan, majority_downsample(truth, FACTOR, len(phases))) for scan, truth in pairs]
        fractions = [volume_fractions(volumes, len(phases)).tolist() for volumes in zip(*pairs)]
        hidden, rims = {phases[HOST]: phases[SECOND]}, {phases[CLAY]: phases[PORE]}
        shares, with_rims = (hidden_shares(phases, hidden, *fractions, turned) for turned in (None, rims))
        made: dict[str, list[np.ndarray]] = {"scan": [], "by noise": [], "by grains": [], "and rims": []}
        for i, (scan, _) in enumerate(pairs):
            noise, grain, rim = (HiddenPhases(len(phases), len(phases), RADIUS) for _ in range(3))
            noise.hide(shares)
            grain.hide(shares)
            grain.calibrate(scan)
            rim.hide(with_rims, rim_labels(phases, rims))
            rim.calibrate(scan)
            for seed in range(lab.seeds * i, lab.seeds * (i + 1)):
                for way, volume in zip(made, (scan, *(_returned(layer, scan, seed) for layer in (noise, grain, rim)))):
                    made[way].append(volume)
        truth = np.concatenate([true for _, true in pairs for _ in range(lab.seeds)])
        scores = [voxel_agreement(np.concatenate(volumes), truth, phases) for volumes in made.values()]
        ends = [scores[0], scores[-1]]
        figures = [*(f"{fraction[SECOND]:.3f}" for fraction in fractions), *(f"{score['dice'][phases[SECOND]]:.2f}" for score in scores[:-1])]
        figures += [f"{score['dice'][phases[phase]]:.2f}" for phase in (PORE, CLAY) for score in ends]
        rows.append([kind, *figures, *(f"{1 - score['accuracy']:.1%}" for score in scores)])
    heads = ["rock", "second mineral in the scan", "in truth", *(f"Dice, {way}" for way in list(made)[:-1])]
    heads += [f"Dice of {phase}, {way}" for phase in ("pore", "clay") for way in ("scan", "with rims")]
    return lab.write("grains", report.markdown_table([*heads, *(f"wrong voxels, {way}" for way in made)], rows))


def _returned(layer: nn.Module, scan: np.ndarray, seed: int) -> np.ndarray:
    """The scan with what it hides, (z, y, x)."""
    around = torch.from_numpy(np.pad(scan, layer.reach, mode="edge")).long()
    noise = torch.randn(1, 1, *around.shape, generator=torch.Generator().manual_seed(seed))
    onehot = F.one_hot(around, len(layer.target)).movedim(-1, 0)[None].float()
    return layer(onehot, noise)[0].argmax(0).numpy().astype(scan.dtype)
