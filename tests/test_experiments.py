"""The experiments, with the bundle's own commands replaced: what is made, what is asked of the commands, and how it is judged."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bundle import experiments, workbench
from bundle.errors import InputError
from bundle.io import Volume, write_volume
from bundle.io.files import read_volume
from bundle.metrics import upsample_nearest
from bundle.workbench import Lab, Model
from tests.commands import Commands

pytest.importorskip("skimage")


@pytest.fixture
def commands(monkeypatch) -> Commands:
    return Commands(monkeypatch)


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(tmp_path, realisations=2, seeds=3, train_size=4, test_size=4, hr_size=32, epochs=4, physics=False, workers=1)


def rows(table: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in cells}


def whole_runs(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of True along the last axis that lie between two False."""
    found = []
    for line in mask.reshape(-1, mask.shape[-1]):
        text = "".join("01"[int(voxel)] for voxel in line)
        found += [len(run) for run in re.findall("(?<=0)1+(?=0)", text)]
    return found


def test_truth_judges_every_rock_and_seed_and_a_second_run_makes_nothing(lab, commands):
    table = experiments.truth(lab)
    found = rows(table)
    assert found["error"] == ["nearest", "trilinear", "shipped model", "SR", "majority of 9 seeds", "SR / nearest"]
    wrong = found["wrong voxels"]
    assert wrong[-1] == "1.00"  # this SR is nearest neighbour
    truths = [read_volume(lab.folder / "berea" / f"test_{i}" / "truth.tif").array for i in range(2)]
    scans = [read_volume(lab.folder / "berea" / f"test_{i}" / "lr.tif").array for i in range(2)]
    share = [np.mean(upsample_nearest(scan, 8) != truth) for scan, truth in zip(scans, truths)]
    assert float(re.sub(r"[*]", "", wrong[3]).split(" ")[0]) == pytest.approx(np.mean(share), abs=6e-4)
    kept = json.loads((lab.folder / "truth.json").read_text())["geometry"]
    assert len(kept["SR"]) == 6 and len(kept["nearest"]) == len(kept["majority of 9 seeds"]) == 2
    assert (lab.folder / "truth.png").read_bytes()[:4] == b"\x89PNG"
    training, inference = commands.of("training"), commands.of("inference")
    assert len(training) == 1 and training[0]["max_epochs"] == "4" and training[0]["start_from"].endswith("models/model.pt")
    assert training[0]["g_learning_rate"] == "0.0002" and training[0]["decay"] == "1.0"
    assert len(inference) == 2 * (3 + 9) and {call["seed"] for call in inference} == set("012345678")
    assert Path(training[0]["lr_image"]).parts[-3:] == ("berea", "train", "lr.tif")  # the rocks to judge on stay unseen
    before = len(commands.calls)
    assert experiments.truth(lab) == table and len(commands.calls) == before


def test_zero_noise_is_zero_in_training_and_inference(lab, commands):
    experiments.zero_noise(lab)
    assert ("training", ("train.yaml", "zero_noise.yaml")) in [call[:2] for call in commands.calls]
    still = [call for call in commands.calls if call[0] == "inference" and "models/zero_noise/" in call[2]["model_file"]]
    assert still and all(call[1] == ("inference.yaml", "zero_noise.yaml") for call in still)


def test_consistency_alone(lab, commands):
    experiments.mse_only(lab)
    assert ("training", ("train.yaml", "mse_only.yaml")) in [call[:2] for call in commands.calls]


def test_other_minerals_learn_with_their_own_names(lab, commands):
    experiments.minerals(lab)
    carbonate = next(call for call in commands.of("training") if call["output_dir"].endswith("carbonate"))
    assert "micrite" in carbonate["phases"] and "'calcite': 'dolomite'" in carbonate["hidden"] and "'micrite': 'pore'" in carbonate["rims"]
    assert "'micrite': {'pore': 0.5, 'calcite': 0.7, 'dolomite': 0.7}" in carbonate["costs"]
    assert carbonate["seen"] == "['calcite', 'dolomite', 'micrite']"
    assert carbonate["start_from"].endswith("base/model.pt")


def test_layers_are_learned_from_images_of_each_plane(lab, commands):
    lab = dataclasses.replace(lab, test_size=8)  # 28 µm: smaller ones may hold no whole chord
    table = experiments.layering(lab)
    layered = next(call for call in commands.of("training") if call["output_dir"].endswith("layered"))
    images = json.loads(layered["hr_images"].replace("'", '"'))
    assert images["xy"].endswith("hr_z.tif") and images["xz"] == images["yz"] and images["xz"].endswith("hr_y.tif")
    assert "| truth |" in table and "pore chord along z" in table
    ratios = rows(table.split("\n\n")[-1])
    assert list(ratios) == ["pore chord along z / along x, y", "---", "truth", "nearest", "isotropic model", "images of each plane"]
    assert ratios["nearest"] == ratios["isotropic model"] == ratios["images of each plane"]  # this SR repeats the voxels
    for i in range(2):
        truth = read_volume(lab.folder / "layered" / f"test_{i}" / "truth.tif").array == 0
        z, y, x = (np.mean(whole_runs(np.moveaxis(truth, axis, -1))) for axis in range(3))
        assert float(ratios["truth"][i]) == pytest.approx(2 * z / (y + x), abs=6e-4)


def test_artefacts_change_the_scan_and_are_followed(lab, commands):
    found = rows(experiments.artefacts(lab))
    lr, planted = (read_volume(lab.folder / "berea" / "test_0" / name).array for name in ("lr.tif", "planted_shift.tif"))
    assert found["shift"][0] == f"{np.mean(lr != planted):.1%}" == found["shift"][1]  # this SR repeats the voxels
    assert (lab.folder / "artefacts.png").exists()


def test_two_points_of_repeated_voxels_err_as_the_scan(lab, commands):
    found = rows(experiments.two_points(lab))
    truth, lr = (read_volume(lab.folder / "berea" / "test_0" / name).array for name in ("truth.tif", "lr.tif"))
    repeated = lr.repeat(8, 0).repeat(8, 1).repeat(8, 2)

    def curve(labels, phase, lags):
        """Pairs of voxels one lag apart along an axis that are both of the phase, counted; mean over the axes."""
        mask = labels == phase
        shifted = [[np.moveaxis(mask, axis, 0) for axis in range(3)] for _ in lags]
        return np.array([np.mean([np.mean(m[lag:] & m[: m.shape[0] - lag]) for m in axes]) for lag, axes in zip(lags, shifted)])

    for phase, name in enumerate(("pore", "quartz", "feldspar", "clay")):
        fine = curve(truth, phase, range(1, 17))
        coarse = np.abs(curve(lr, phase, range(1, 3)) - fine[[7, 15]]).mean()
        made = np.abs(curve(repeated, phase, range(1, 17)) - fine).mean()
        assert [float(cell) for cell in found[name]] == pytest.approx([coarse, made], abs=6e-5), name


def test_a_real_volume_is_split_and_judged(lab, commands, tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, (48, 32, 32)).astype(np.uint8)
    write_volume(tmp_path / "v.tif", Volume(labels, (2.0,) * 3))
    lab.training_data("berea")
    ours = files_of(lab.folder)
    commands_table = experiments.paired(lab, str(tmp_path / "v.tif"), ["pore", "grain"], "berea", 2.0)  # named as a rock of our own, which it is not
    assert "wrong voxels" in rows(commands_table)
    assert {path: data for path, data in files_of(lab.folder).items() if path in ours} == ours
    assert np.unique(read_volume(lab.folder / "paired_berea" / "train" / "lr.tif").array).tolist() == [0, 1]
    training = commands.of("training")[0]
    assert training["scale_factor"] == "4" and Path(training["hr_images"]).exists()
    assert (lab.folder / "paired_berea.md").exists()


def test_other_weights_are_judged_anew_and_what_started_from_others_is_told(lab, commands, caplog):
    """Same names, other bytes: figures of weights that are gone must not pass for those of the new ones."""
    experiments.truth(lab)
    made = len(commands.of("inference"))
    base = experiments.base_model(lab)
    (lab.folder / "models" / "second").mkdir()
    second = lab.train("second", lab.training_data("berea"), ["pore"], 2, f"--start_from={base.path}")
    base.path.write_bytes(b"other weights")
    caplog.clear()
    assert lab.train("second", lab.training_data("berea"), ["pore"], 2, f"--start_from={base.path}") == second
    assert ["made with weights to start from" in record.getMessage() for record in caplog.records] == [True]
    experiments.truth(lab)
    assert len(commands.of("inference")) == made + 2 * 9  # two rocks, nine seeds of this model; the shipped one is as it was
    kept = [path.name for path in (lab.folder / "berea" / "test_0").glob("geometry_base_*_0.json")]
    assert len(kept) == 4  # of both weights: the first seed, and the majority


def test_physics_stands_beside_the_truth(lab, commands):
    pytest.importorskip("pyamg")
    pytest.importorskip("taufactor")
    lab.physics, lab.realisations = True, 1
    found = rows(experiments.truth(lab))
    assert {"permeability", "conductivity (1 / formation factor)", "bulk modulus", "shear modulus"} <= set(found)
    assert found["bulk modulus"][0] == found["bulk modulus"][2] == found["bulk modulus"][3]  # both models are nearest neighbour here
    lines = (lab.folder / "berea" / "test_0" / "physics.md").read_text().splitlines()
    assert lines[0] == "| | truth | nearest | trilinear | shipped model | SR |" and len(lines) == 10


def test_a_command_that_fails_is_said():
    with pytest.raises(InputError, match="inference ended with exit code"):
        Lab(Path("/nowhere")).bundle("inference", ("absent.yaml",))


def test_models_are_named_by_their_folder(tmp_path):
    assert Model(tmp_path / "fine" / "model.pt").name == "fine" and experiments.SHIPPED.name == "shipped"


def test_what_was_made_with_other_settings_is_used_with_a_warning(lab, commands, caplog):
    base = experiments.base_model(lab)
    rock = lab.folder / "berea" / "train"
    assert json.loads((rock / "settings.json").read_text())["edge of the scan"] == 4
    caplog.clear()
    assert experiments.base_model(lab) == base and not caplog.records  # the same again: nothing to say
    experiments.base_model(dataclasses.replace(lab, epochs=7, train_size=6))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 and len(commands.of("training")) == 1
    assert "made with edge of the scan 4, now 6" in told[0] and "made with epochs 4, now 7" in told[1]
    (rock / "settings.json").unlink()
    caplog.clear()
    experiments.base_model(lab)
    assert [record.getMessage() for record in caplog.records] == [f"{rock}: used as it is; with which settings it was made is not known"]


def test_physics_of_other_cells_is_not_that_of_the_usual_ones(lab, monkeypatch):
    monkeypatch.setattr(workbench.judging, "physical_properties", lambda labels, phases, size, coarsening: {"cells": coarsening})
    labels = np.zeros((4, 4, 4), np.uint8)
    assert lab._physics(lab.folder, "truth", labels, ["pore"], 1.0) == {"cells": workbench.COARSENING}
    assert dataclasses.replace(lab, coarsening=2)._physics(lab.folder, "truth", labels, ["pore"], 1.0) == {"cells": 2}
    assert (lab.folder / "physics_truth.json").exists()


def test_a_training_that_was_broken_off_goes_on_with_its_own_settings_alone(lab, tmp_path, caplog):
    result, checkpoint = tmp_path / "done", tmp_path / "checkpoint.pt"
    settings = {"epochs": 4, "options": ["--costs={}"]}
    assert lab.anew(tmp_path, result, settings)
    checkpoint.touch()
    assert lab.anew(tmp_path, result, settings | {"epochs": 6}) and checkpoint.exists() and not caplog.records
    assert lab.anew(tmp_path, result, settings | {"epochs": 6, "options": []}) and not checkpoint.exists()
    assert "begun with options ['--costs={}'], now []; starts anew" in caplog.records[-1].getMessage()


@pytest.mark.parametrize(("values", "voxel_size", "message"), [
    ((0, 255), 2.0, "v.tif: holds values (255) where 0, 1 are known; save it with 0 to 1, or correct the phases"),
    ((0.0, 0.5), 2.0, "v.tif: holds fractional values (0.5)"),
    ((0, 1), 0.0, "--voxel-size: 0.0 is not a voxel size"),
])  # fmt: skip
def test_a_real_volume_that_cannot_be_judged_is_refused_before_anything_is_written(lab, commands, tmp_path, values, voxel_size, message):
    labels = np.array(values)[np.random.default_rng(0).integers(0, 2, (24, 8, 8))]
    write_volume(tmp_path / "v.tif", Volume(labels.astype(np.float32 if isinstance(values[1], float) else np.uint8), (2.0,) * 3))
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        experiments.paired(lab, str(tmp_path / "v.tif"), ["pore", "grain"], "real", voxel_size)
    assert "lr_labels" not in str(raised.value)
    assert [path.name for path in lab.folder.iterdir()] == ["v.tif"] and not commands.calls


@pytest.mark.parametrize("name", ["realisations", "seeds", "train_size", "test_size", "hr_size", "epochs", "coarsening", "workers"])
@pytest.mark.parametrize("number", [0, -1, 1.5])
def test_a_lab_of_no_size_is_refused(tmp_path, name, number):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')}: {number}; give a whole number of .*, 1 or more"):
        Lab(tmp_path / "lab", **{name: number})


def test_the_command_names_the_option_in_one_line(bundle_root, tmp_path):
    command = [sys.executable, str(bundle_root / "scripts" / "experiments.py"), "truth", "--seeds", "0", "--output", str(tmp_path / "lab")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and ended.stderr == "error: --seeds: 0; give a whole number of seeds, such as 3, 1 or more\n"
    assert not (tmp_path / "lab").exists()


def test_cells_that_do_not_fill_the_truth_are_refused_before_anything_is_made(lab, commands, tmp_path):
    """Truths of 32 voxels a side in the synthetic rock, of 8 in the real one."""
    write_volume(tmp_path / "v.tif", Volume(np.zeros((24, 8, 8), np.uint8), (2.0,) * 3))
    for coarsening, edge, run in (
        (3, 32, experiments.truth), (16, 8, lambda lab: experiments.paired(lab, str(tmp_path / "v.tif"), ["pore", "grain"], "real", 2.0)),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"--coarsening: cells of {coarsening} voxels do not fill a truth of {edge} voxels a side"):
            run(dataclasses.replace(lab, coarsening=coarsening, physics=True))
    assert [path.name for path in lab.folder.iterdir()] == ["v.tif"] and not commands.calls


def test_half_of_one_epoch_is_one(lab, commands):
    lab = dataclasses.replace(lab, epochs=1, realisations=1, seeds=1)
    experiments.mse_only(lab)
    assert [given["max_epochs"] for given in commands.of("training")] == ["1", "1"]


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def volumes(tmp_path) -> list[str]:
    for i in range(2):
        write_volume(tmp_path / f"{i}.tif", Volume(np.random.default_rng(i).integers(0, 2, (24, 8, 16)).astype(np.uint8), (2.0,) * 3))
    return [str(tmp_path / f"{i}.tif") for i in range(2)]


@pytest.mark.parametrize(("other", "phases", "voxel_size", "what"), [
    (1, ["pore", "grain"], 2.0, "volume"), (0, ["pore", "quartz"], 2.0, "phases"), (0, ["pore", "grain"], 3.0, "voxel size 2.0, now 3.0"),
])  # fmt: skip
def test_another_volume_of_the_same_name_is_told_and_nothing_of_the_old_one_is_written_over(
    lab, commands, caplog, volumes, other, phases, voxel_size, what
):
    lab = dataclasses.replace(lab, folder=lab.folder / "lab")
    table = experiments.paired(lab, volumes[0], ["pore", "grain"], "real", 2.0)
    made, calls = files_of(lab.folder), len(commands.calls)
    assert experiments.paired(lab, volumes[0], ["pore", "grain"], "real", 2.0) == table and not caplog.records  # the same again: nothing to say
    experiments.paired(lab, volumes[other], phases, "real", voxel_size)
    told = [record.getMessage() for record in caplog.records]
    assert told[0].startswith(f"{lab.folder / 'paired_real'}: used as it is, made with {what}") and "delete it or give another --output" in told[0]
    assert len(commands.calls) == calls
    tables = [lab.folder / f"paired_real.{suffix}" for suffix in ("md", "json", "png")]
    assert {path: data for path, data in files_of(lab.folder).items() if path not in tables} == {k: v for k, v in made.items() if k not in tables}
    if what == "volume":
        assert len(told) == 1 and (lab.folder / "paired_real.md").read_text() == table
    if what == "phases":  # rocks and weights, each once
        assert len(told) == 2 + len(list((lab.folder / "paired_real").glob("test_*")))


def test_a_volume_in_another_format_is_the_same(lab, commands, caplog, volumes, tmp_path):
    experiments.paired(lab, volumes[0], ["pore", "grain"], "real", 2.0)
    write_volume(tmp_path / "v.mhd", Volume(read_volume(volumes[0]).array, (2.0,) * 3))
    experiments.paired(lab, str(tmp_path / "v.mhd"), ["pore", "grain"], "real", 2.0)
    assert not caplog.records


def test_what_was_made_before_checksums_were_noted_is_used_with_a_warning(lab, commands, caplog, volumes):
    lab = dataclasses.replace(lab, folder=lab.folder / "lab", realisations=1)
    table = experiments.paired(lab, volumes[0], ["pore", "grain"], "real", 2.0)
    weights = lab.folder / "models" / "paired_real"
    for path in lab.folder.rglob("*.json"):
        if path.parent == weights:  # as it was
            settings = json.loads(path.read_text())
            path.write_text(json.dumps({name: settings[name] for name in ("epochs", "options", "configs", "weights to start from")}))
        elif path.name == "settings.json":
            path.unlink()
        else:
            path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "settings"}))
    calls = len(commands.calls)
    assert experiments.paired(dataclasses.replace(lab), volumes[1], ["pore", "grain"], "real", 2.0) == table and len(commands.calls) == calls
    told = [record.getMessage() for record in caplog.records]
    unknown = "used as it is; with which settings it was made is not known"
    assert [told[0], told[2]] == [f"{lab.folder / 'paired_real'}: {unknown}", f"{lab.folder / 'paired_real' / 'test_0'}: {unknown}"] and len(told) == 3
    assert told[1].startswith(f"{weights}: used as it is, made with scan not known, now ")


def test_a_model_of_other_data_is_told(lab, commands, caplog):
    """Of another scan, other images, or other images of one plane."""
    for name in ("lr", "hr", "other"):
        write_volume(lab.folder / f"{name}.tif", Volume(np.zeros((2, 4, 4), np.uint8), (2.0,) * 3))
    planes = f"--hr_images={ {'xy': str(lab.folder / 'hr.tif'), 'xz': str(lab.folder / 'other.tif')} }"
    lab.train("own", lab.folder, ["pore"], 2)
    lab.train("planes", lab.folder, ["pore"], 2, planes)
    assert not caplog.records
    for name, models in (("lr", {"own": "scan", "planes": "scan"}), ("hr", {"own": "images", "planes": "images"}), ("other", {"planes": "images"})):
        before = (lab.folder / f"{name}.tif").read_bytes()
        write_volume(lab.folder / f"{name}.tif", Volume(np.ones((2, 4, 4), np.uint8), (2.0,) * 3))
        caplog.clear()
        for options in ((), (planes,)):
            lab.train("planes" if options else "own", lab.folder, ["pore"], 2, *options)
        told = [record.getMessage() for record in caplog.records]
        assert [(Path(line.split(": used")[0]).name, line.split("made with ")[1].split(" ")[0]) for line in told] == list(models.items())
        (lab.folder / f"{name}.tif").write_bytes(before)
    assert len(commands.of("training")) == 2
    with pytest.raises(InputError, match="absent.tif: cannot be read"):
        lab.train("absent", lab.folder, ["pore"], 2, f"--hr_images={lab.folder / 'absent.tif'}")


def test_a_super_resolution_of_another_scan_or_scale_is_told(lab, commands, caplog):
    for label, scale, told in ((0, 2, []), (0, 2, []), (1, 2, ["scan"]), (0, 4, ["scale 2, now 4"])):
        write_volume(lab.folder / "lr.tif", Volume(np.full((2, 2, 2), label, np.uint8), (2.0,) * 3))
        caplog.clear()
        assert not lab.super_resolve(experiments.SHIPPED, lab.folder / "lr.tif", scale=scale).any()  # that of the first
        assert len(caplog.records) == len(told)
        for record, what in zip(caplog.records, told):
            assert record.getMessage().startswith(f"{lab.folder}: used as it is, made with {what}")


def test_figures_of_other_input_are_told(lab, caplog):
    assert lab.kept(lab.folder, "some figures", {"images": "a"}, lambda: {"figure": 1}) == {"figure": 1}
    assert lab.kept(lab.folder, "some figures", {"images": "a"}, lambda: {"figure": 2}) == {"figure": 1} and not caplog.records
    assert lab.kept(lab.folder, "some figures", {"images": "b"}, lambda: {"figure": 2}) == {"figure": 1}
    assert [record.getMessage() for record in caplog.records] == [
        f"{lab.folder}: used as it is, made with images a, now b; delete it or give another --output to make it anew"
    ]
    (lab.folder / "before.json").write_text('{"figure": 3}')
    assert lab.kept(lab.folder, "before", {"images": "a"}, lambda: {"figure": 4}) == {"figure": 3}
    assert caplog.records[-1].getMessage() == f"{lab.folder}: used as it is; with which settings it was made is not known"


def test_a_training_broken_off_before_checksums_were_noted_goes_on(lab, tmp_path, caplog):
    assert lab.anew(tmp_path, tmp_path / "done", {"epochs": 4})
    (tmp_path / "checkpoint.pt").touch()
    assert lab.anew(tmp_path, tmp_path / "done", {"epochs": 4, "scan": "a"}) and (tmp_path / "checkpoint.pt").exists()
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: begun with scan not known, now a; goes on"]
    assert lab.anew(tmp_path, tmp_path / "done", {"epochs": 4, "scan": "b"}) and not (tmp_path / "checkpoint.pt").exists()
