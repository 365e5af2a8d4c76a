"""The campaign, with the bundle's own commands replaced: what each trial is given, and what the table says of what it made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bundle import campaign, image_experiments
from bundle.campaign import Trial
from bundle.io import Volume, read_volume, write_volume
from bundle.metrics import mean_relative_error, statistics
from bundle.metrics.fractions import as_arrays
from bundle.workbench import SHIPPED, Lab
from tests.commands import Commands

PHASES = ["pore", "quartz", "feldspar", "clay"]


@pytest.fixture
def commands(monkeypatch) -> Commands:
    asked: list[np.ndarray] = []

    def network(real, made, n, edge):
        asked.append(made)
        return {"auc": 0.375 if len(real) == 4 else 0.75, "error": 0.125}

    monkeypatch.setattr(campaign, "two_sample_auc", network)
    monkeypatch.setattr(campaign, "CROPS", 8)
    monkeypatch.setattr(image_experiments, "TRAIN", ((0, 8), None, None))
    monkeypatch.setattr(image_experiments, "TEST", ((8, 40), (0, 32), (0, 32)))
    monkeypatch.setattr(campaign, "TRIALS", {
        "as it is": Trial(), "long steps": Trial(("critics.yaml",), ("--n_critic=1",), share=0.4), "anew": Trial(options=("--network_def#channels=[8,8]",), scratch=True),
    })  # fmt: skip
    found = Commands(monkeypatch)
    train = found.run

    def run(kind, configs, *options):
        train(kind, configs, *options)
        given = found.calls[-1][2]
        if kind == "training":
            (Path(given["output_dir"]) / "model.json").write_text(json.dumps({"generator_steps": 50 * int(given["max_epochs"]), "hours": 0.25}))

    monkeypatch.setattr(Lab, "bundle", staticmethod(run))
    found.asked = asked
    return found


def test_each_trial_differs_in_what_it_says_and_all_are_judged_alike(tmp_path, commands):
    rng = np.random.default_rng(0)
    scan = rng.integers(0, 4, (40, 32, 32)).astype(np.uint8)
    scan[20:24, 8:12, 8:12] = 0  # pore with an inside
    images = rng.integers(0, 4, (4, 512, 512)).astype(np.uint8)
    write_volume(tmp_path / "lr.tif", Volume(scan, (3.5,) * 3))
    write_volume(tmp_path / "hr.tif", Volume(images, None))
    files = {"lr_image": str(tmp_path / "lr.tif"), "hr_images": str(tmp_path / "hr.tif")}
    lab = Lab(tmp_path / "lab", epochs=10, seeds=2)
    text = campaign.campaign(lab, **files, phases=PHASES)

    trainings = [(configs, given) for run, configs, given in commands.calls if run == "training"]
    assert [configs for configs, _ in trainings] == [("train.yaml",), ("train.yaml", "critics.yaml"), ("train.yaml",)]
    assert [given["max_epochs"] for _, given in trainings] == ["10", "4", "10"]
    assert [given.get("start_from") for _, given in trainings] == [str(SHIPPED.path), str(SHIPPED.path), None]
    assert [given.get("n_critic") for _, given in trainings] == [None, "1", None]
    assert all(np.array_equal(read_volume(given["lr_image"]).array, scan[:8]) and given["hr_images"] == files["hr_images"] for _, given in trainings)
    inferences = commands.of("inference")
    assert [given.get("network_def#channels") for given in inferences] == [None] * 6 + ["[8,8]"] * 2
    assert not any("critics.yaml" in configs for run, configs, _ in commands.calls if run == "inference")
    assert [given["seed"] for given in inferences] == ["0", "1"] * 4  # the shipped model and three trials
    assert all(np.array_equal(read_volume(given["lr_image"]).array, scan[8:]) for given in inferences)

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:] if line.startswith("|")]
    assert [row[0] for row in rows] == ["nearest neighbour", "shipped", "as it is", "long steps", "anew"]
    assert [row[1:3] for row in rows[2:]] == [["500", "0.25"], ["200", "0.25"], ["500", "0.25"]]
    fine = scan[8:].repeat(8, 0).repeat(8, 1).repeat(8, 2)  # what the stub makes
    error = mean_relative_error(statistics(fine, 4), np.mean([statistics(image, 4) for image in images], 0))
    for row in rows:
        assert row[3] == f"{error:.1%}" and row[5] == "0.38 ± 0.12"  # a volume against four images
        assert row[6] == "0.75 ± 0.12"  # crops at 45 degrees, of both
        assert row[7:11] == ["100.0%"] * 4
    assert [row[11] for row in rows] == ["-", *["0.0%"] * 4]
    assert [row[12] for row in rows] == ["0.0%"] * 5  # repeated voxels hold nothing foreign
    assert [{array.shape for array in as_arrays(made)} for made in commands.asked[:2]] == [{fine.shape}, {(64, 64)}]  # a volume, and images
    assert len(commands.asked[1]) == 8
    assert (tmp_path / "lab" / "campaign.png").stat().st_size > 10000

    calls = len(commands.calls)
    assert campaign.campaign(lab, **files, phases=PHASES, names=["anew"]).splitlines()[-1] == text.splitlines()[-1] and len(commands.calls) == calls


def test_figures_against_other_images_are_told(tmp_path, commands, caplog):
    rng = np.random.default_rng(0)
    write_volume(tmp_path / "lr.tif", Volume(rng.integers(0, 4, (40, 32, 32)).astype(np.uint8), (3.5,) * 3))
    for seed in range(2):
        write_volume(tmp_path / "hr.tif", Volume(rng.integers(0, 4, (4, 512, 512)).astype(np.uint8), None))
        campaign.campaign(Lab(tmp_path / "lab", epochs=1, seeds=1), str(tmp_path / "lr.tif"), str(tmp_path / "hr.tif"), PHASES, ["as it is"])
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.split(" ")[0] for line in told] == [f"{tmp_path / 'lab' / name}:" for name in ("models/campaign_as_it_is", "campaign")]
    assert all("used as it is, made with images" in line for line in told)
