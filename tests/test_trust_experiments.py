"""The experiments on trust, with the bundle's own commands replaced: what is trained, what is told, and that chances come from unseen rocks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bundle import trust_experiments
from bundle.io import read_volume
from bundle.losses.confusion import ConfusionConsistency
from bundle.metrics import upsample_nearest
from bundle.trust import Trust
from bundle.workbench import SHIPPED, Lab
from tests.commands import Commands

PHASES = ["pore", "quartz", "feldspar", "clay"]


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(tmp_path, realisations=2, seeds=2, train_size=5, test_size=4, hr_size=32, epochs=4, physics=False, workers=1)


def rows(table: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|") and "---" not in line]
    return {row[0]: row[1:] for row in cells}


def test_confusion_compares_three_consistencies_from_one_start(lab, monkeypatch):
    pytest.importorskip("skimage")
    commands = Commands(monkeypatch)
    learned = ConfusionConsistency([0.25] * 4, [0.25] * 4, 8)
    learned.table.fill_(0.25)
    monkeypatch.setattr(trust_experiments, "load_checkpoint", lambda path: {"consistency": learned.state_dict()})
    monkeypatch.setattr(trust_experiments, "PASSES", 2)
    found = rows(trust_experiments.confusion(lab))
    trainings = commands.of("training")
    assert [given.get("costs") for given in trainings] == ["{}", None, None]
    assert {(given["start_from"], given["max_epochs"]) for given in trainings} == {(str(SHIPPED.path), "2")}
    assert [configs for run, configs, _ in commands.calls if run == "training"] == [("train.yaml",), ("train.yaml",), ("train.yaml", "confusion.yaml")]
    assert found["confusion learned"] == ["0.0% ± 0.0%"] * 4  # nearest neighbour changes nothing
    assert found["quartz"][1] == "0.25, 0.25, 0.25, 0.25"
    assert len(found["pore with quartz"]) == 3


def test_trust_learns_on_other_rocks_than_it_is_judged_on(lab, monkeypatch):
    """Seeds that say what the scan says, but for the first voxel of every block: there they say pore, one more with every seed."""
    seen = []

    class Inferer:
        def __init__(self, seed: int, amp: bool | None):
            self.seed = seed

        def __call__(self, labels, network):
            made = upsample_nearest(labels[0, 0].numpy(), 8)
            seen.append(labels[0, 0].numpy())
            made[::8, ::8, ::8] = 0
            return torch.from_numpy(made)[None, None]

    monkeypatch.setattr(trust_experiments, "WindowInferer", Inferer)
    found = rows(trust_experiments.trust(lab))
    assert set(found) == {"rock", "berea", "tight", "layered", "carbonate"}
    learned = [read_volume(lab.folder / "berea" / f"calibration_{i}" / "lr.tif").array for i in range(2)]
    judged = [read_volume(lab.folder / "berea" / f"test_{i}" / "lr.tif").array for i in range(2)]
    assert all(np.array_equal(seen[8 * i], labels) for i, labels in enumerate([*learned, *judged]))
    table = Trust.load(lab.folder / "trust.json", PHASES)
    assert table.seeds == 8
    right = []
    for folder in (lab.folder / "berea" / f"calibration_{i}" for i in range(2)):
        scan, truth = (read_volume(folder / f"{name}.tif").array for name in ("lr", "truth"))
        made = upsample_nearest(scan, 8)
        made[::8, ::8, ::8] = 0
        kind = (made == 1) & (upsample_nearest(scan, 8) == 1)
        right.append((truth == made)[kind])
    assert table.table[1, 1, 8] == pytest.approx(np.concatenate(right).mean(), abs=1e-3)
    assert json.loads((lab.folder / "trust.json").read_text())["made_from"]["voxels"] == 2 * 40**3
    # all seeds agree everywhere here, so bare votes say 100 %
    share = float(found["berea"][0].rstrip("%")) / 100
    assert float(found["berea"][6]) == pytest.approx(1 - share, abs=2e-3)
    assert (lab.folder / "trust.png").read_bytes()[:4] == b"\x89PNG"
