"""The experiment on hidden phases, on rock whose grains are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from bundle import hidden_experiments
from bundle.hidden_experiments import grains
from bundle.workbench import Lab


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Lab:
    """Two rocks of each kind: eight balls of quartz, of which the scan saw a little feldspar in two that are wholly feldspar. Around half of them the scan
    has a rim of clay, and there is a patch of it, which alone is true."""
    monkeypatch.setattr(hidden_experiments, "RADIUS", 8)
    places = np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"))
    truth, scan = np.zeros((2, 32, 32, 32), np.uint8)
    for ball, corner in enumerate(itertools.product((8, 23), repeat=3)):
        inside = ((places - np.array(corner)[:, None, None, None]) ** 2).sum(0) <= 7**2
        scan[inside] = 1
        truth[inside] = 2 if ball in (1, 6) else 1
    beside = ndimage.binary_dilation(truth > 0) & (truth == 0) & (places[2] < 16)
    scan[beside] = 3
    scan[13:18, 13:18, 28:] = truth[13:18, 13:18, 28:] = 3
    scan[(truth == 2) & (np.random.default_rng(0).random(truth.shape) < 0.2)] = 2
    folders = [tmp_path / str(i) for i in range(2)]
    for folder in folders:
        folder.mkdir()
        tifffile.imwrite(folder / "lr.tif", scan, resolution=(1, 1))
        tifffile.imwrite(folder / "truth.tif", truth.repeat(8, 0).repeat(8, 1).repeat(8, 2))
    monkeypatch.setattr(Lab, "tests", lambda self, kind: folders)
    return Lab(tmp_path / "lab", realisations=2, seeds=3, workers=1)


def test_what_the_scan_saw_says_where_it_belongs(lab):
    """By hand: 20 % of the feldspar in the scan, all others right, so Dice is 2 x .2 / 1.2; all of it returns where it is seen, or nearly; by chance a quarter does."""
    table = grains(lab)
    scan_labels, true_labels = read(lab, "lr"), read(lab, "truth")[::8, ::8, ::8]
    patch, rim = (true_labels == 3).sum(), ((scan_labels == 3) & (true_labels == 0)).sum()
    assert (lab.folder / "grains.md").read_text().strip() == table.strip()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    assert rows[0][3:6] == ["Dice, scan", "Dice, by noise", "Dice, by grains"]
    assert rows[0][6:10] == ["Dice of pore, scan", "Dice of pore, with rims", "Dice of clay, scan", "Dice of clay, with rims"]
    assert [row[0] for row in rows[2:]] == ["berea", "tight", "layered", "carbonate"]
    for row in rows[2:]:
        seen, true, scan, noise, grain = map(float, row[1:6])
        assert seen == pytest.approx(0.2 * true, rel=0.1) and scan == pytest.approx(0.33, abs=0.03)
        assert grain > 0.95 and noise < 0.7
        pore, pore_mended, clay, clay_mended = map(float, row[6:10])
        assert clay == pytest.approx(2 * patch / (2 * patch + rim), abs=0.006)
        assert clay_mended == pytest.approx(1, abs=0.07)  # all rims turn, and as many of the patch's 100 voxels as rims are left: a few
        pores = (true_labels == 0).sum()
        assert pore == pytest.approx(2 * (pores - rim) / (2 * pores - rim), abs=0.006)
        assert pore_mended == pytest.approx(1, abs=0.006)
        wrong = [float(cell.strip("%")) / 100 for cell in row[10:]]
        assert wrong[0] == pytest.approx(0.8 * true + rim / 32**3, rel=0.05) and wrong[2] == pytest.approx(rim / 32**3, abs=0.01)
        assert wrong[3] == pytest.approx(0, abs=0.01)


def read(lab: Lab, name: str) -> np.ndarray:
    return tifffile.imread(lab.tests("berea")[0] / f"{name}.tif")
