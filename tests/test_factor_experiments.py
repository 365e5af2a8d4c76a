"""The experiment on 16x and 32x, with the bundle's own commands replaced: which scan each model learns and is judged on."""

from __future__ import annotations

import numpy as np
import pytest

from bundle import factor_experiments, image_experiments, judging
from bundle.io import Volume, read_volume, write_volume
from bundle.metrics import mean_relative_error, statistics
from bundle.workbench import SHIPPED, Lab
from tests.commands import Commands

PHASES = ["pore", "quartz", "feldspar", "clay"]


@pytest.fixture
def commands(monkeypatch) -> Commands:
    monkeypatch.setattr(judging, "two_sample_auc", lambda real, made, n, edge: {"auc": len(real) / 8, "error": 0.125})
    monkeypatch.setattr(image_experiments, "TRAIN", ((0, 8), None, None))
    monkeypatch.setattr(image_experiments, "TEST", ((8, 16), (4, 12), (0, 8)))
    return Commands(monkeypatch)


def majority(labels: np.ndarray, edge: int) -> np.ndarray:
    """By a loop over the blocks."""
    result = np.empty([n // edge for n in labels.shape], np.uint8)
    for index in np.ndindex(result.shape):
        block = labels[tuple(slice(edge * i, edge * (i + 1)) for i in index)]
        counts = np.bincount(block.ravel(), minlength=4)
        result[index] = block[0, 0, 0] if counts[block[0, 0, 0]] == counts.max() else counts.argmax()
    return result


def test_each_factor_learns_its_scan_and_all_are_judged_at_one_place(tmp_path, commands, monkeypatch):
    lags, draw = [], factor_experiments.report.plot_curves
    monkeypatch.setattr(factor_experiments.report, "plot_curves", lambda path, lag, *rest: lags.append(lag) or draw(path, lag, *rest))
    rng = np.random.default_rng(0)
    scan, images = rng.integers(0, 4, (16, 12, 8)).astype(np.uint8), rng.integers(0, 4, (4, 64, 64)).astype(np.uint8)
    write_volume(tmp_path / "lr.tif", Volume(scan, (3.5,) * 3))
    write_volume(tmp_path / "hr.tif", Volume(images, None))  # they do not tell their pixel: the scan does
    files = {"lr_image": str(tmp_path / "lr.tif"), "hr_images": str(tmp_path / "hr.tif")}
    text = factor_experiments.factors(Lab(tmp_path / "lab", epochs=3), **files, phases=PHASES)
    trainings = [(configs, given) for run, configs, given in commands.calls if run == "training"]
    assert [configs for configs, _ in trainings] == [("train.yaml", "16x.yaml"), ("train.yaml", "32x.yaml")]
    runs = [(configs, given) for run, configs, given in commands.calls if run == "inference"]
    assert [configs for configs, _ in runs] == [("inference.yaml",), ("inference.yaml", "16x.yaml"), ("inference.yaml", "32x.yaml")]
    assert runs[0][1]["model_file"] == str(SHIPPED.path)
    np.testing.assert_allclose(np.diff(lags[0]), 3.5 / 8)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    wanted = np.mean([statistics(image, 4) for image in images], 0)
    for k, factor in enumerate((8, 16, 32)):
        learned, judged = (majority(part, 2**k) for part in (scan[:8], scan[8:, 4:, :]))
        folder = tmp_path / "lab" / "factors" / f"{factor}x"
        for name, expected in (("train", learned), ("test", judged)):
            volume = read_volume(folder / name / "lr.tif")
            assert np.array_equal(volume.array, expected) and volume.voxel_size == (3.5 * 2**k,) * 3
        if k:
            given = trainings[k - 1][1]
            assert given["lr_image"] == str(folder / "train" / "lr.tif") and given["hr_images"] == files["hr_images"] and given["max_epochs"] == "3"
        assert runs[k][1]["lr_image"] == str(folder / "test" / "lr.tif") and runs[k][1]["scale_factor"] == str(factor)
        fine = judged.repeat(factor, 0).repeat(factor, 1).repeat(factor, 2)  # what the stub makes
        error = mean_relative_error(statistics(fine, 4), wanted)
        for title in (f"nearest {factor}x", f"{factor}x"):
            (row,) = [row for row in rows if row[0] == title]
            assert row[1] == f"{error:.1%}" and row[3:] == ["0.50 ± 0.12", "100.0%"]
        (fraction,) = [row for row in rows if row[0] == "clay"]
        assert fraction[2 + 2 * k] == fraction[3 + 2 * k] == f"{(fine == 3).mean():.5f}" and fraction[1] == f"{wanted[3]:.5f}"
    for picture in ("factors.png", "factors_two_point.png"):
        assert (tmp_path / "lab" / picture).stat().st_size > 10000
    calls = len(commands.calls)
    assert factor_experiments.factors(Lab(tmp_path / "lab", epochs=3), **files, phases=PHASES) == text and len(commands.calls) == calls


def test_images_may_differ_in_size(tmp_path, commands):
    rng = np.random.default_rng(0)
    write_volume(tmp_path / "lr.tif", Volume(rng.integers(0, 4, (16, 12, 8)).astype(np.uint8), (3.5,) * 3))
    (tmp_path / "images").mkdir()
    for name, shape in (("a.tif", (1, 64, 64)), ("b.tif", (1, 40, 72))):
        write_volume(tmp_path / "images" / name, Volume(rng.integers(0, 4, shape).astype(np.uint8), None))
    given = {"lr_image": str(tmp_path / "lr.tif"), "hr_images": str(tmp_path / "images"), "phases": PHASES}
    assert "| 16x |" in factor_experiments.factors(Lab(tmp_path / "lab", epochs=3), **given, finer=(16,))
    assert (tmp_path / "lab" / "factors_two_point.png").stat().st_size > 10000


def test_likeness_of_a_volume_to_its_own_planes(monkeypatch):
    """Against images of one phase, a volume of that phase: nothing differs. Against another phase: everything."""
    monkeypatch.setattr(judging, "two_sample_auc", lambda real, made, n, edge: {"auc": 0.5, "error": 0.0})
    volume, image = np.zeros((16, 16, 16), np.uint8), np.zeros((64, 64), np.uint8)
    same = judging.likeness(volume, np.zeros((2, 2, 2), np.uint8), 8, [image], ["pore", "quartz"])
    assert same == {"statistics": 0.0, "two_point": pytest.approx(0.0, abs=1e-6), "auc": 0.5, "auc_error": 0.0, "pore": 1.0}
    other = judging.likeness(volume, np.zeros((2, 2, 2), np.uint8), 8, [image + 1], ["pore", "quartz"])
    assert other["two_point"] == pytest.approx(1.0) and other["statistics"] > 0.3


@pytest.mark.parametrize("name", ["lr", "hr"])
def test_another_scan_or_other_images_are_told(tmp_path, commands, caplog, name):
    rng = np.random.default_rng(0)
    arrays = {"lr": rng.integers(0, 4, (16, 12, 8)).astype(np.uint8), "hr": rng.integers(0, 4, (4, 64, 64)).astype(np.uint8)}
    for file, array in arrays.items():
        write_volume(tmp_path / f"{file}.tif", Volume(array, (3.5,) * 3 if file == "lr" else None))

    def run():
        files = {"lr_image": str(tmp_path / "lr.tif"), "hr_images": str(tmp_path / "hr.tif")}
        factor_experiments.factors(Lab(tmp_path / "lab", epochs=3), **files, phases=PHASES, finer=(16,))
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    assert run() == run() == []
    calls, scan = len(commands.calls), (tmp_path / "lab" / "factors" / "16x" / "test" / "lr.tif").read_bytes()
    write_volume(tmp_path / f"{name}.tif", Volume(3 - arrays[name], (3.5,) * 3 if name == "lr" else None))
    told = [line.removeprefix(f"{tmp_path / 'lab'}/").split(", now ")[0].rsplit(" ", 1)[0] for line in run()]
    folders = ["factors/8x", "factors/16x"]
    if name == "hr":
        folders.insert(1, "models/factor_16x")
    what = "images" if name == "hr" else "scan"
    assert [line.split(": ")[0] for line in told] == folders and all(f"used as it is, made with {what}" in line for line in told)
    assert len(commands.calls) == calls and (tmp_path / "lab" / "factors" / "16x" / "test" / "lr.tif").read_bytes() == scan
