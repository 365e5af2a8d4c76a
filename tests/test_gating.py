"""The verdict on a set of images, and what it lets into a training."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from bundle import gating
from bundle.errors import InputError
from bundle.gating import Gating, admit, admit_groups

PHASES = ["pore", "solid"]


def write(path: Path, number: int = 2, edge: int = 20, pixel: float = 0.5, seed: int = 0) -> Path:
    labels = np.random.default_rng(seed).integers(2, size=(number, edge, edge)).astype(np.uint8)
    tifffile.imwrite(path, labels, imagej=True, resolution=(1 / pixel, 1 / pixel), metadata={"axes": "ZYX", "unit": "um", "spacing": pixel})
    return path


@pytest.fixture
def judged(monkeypatch) -> list:
    """`gate_images` replaced: what it was asked, a verdict to give."""
    asked: list = []

    def gate(real, made, phases, held_out=None, **settings):
        asked.append((real, made, held_out, settings))
        passed = settings["seed"] != 13
        curves = {"two-point": {"band": np.zeros((2, 2, 5)).tolist(), "made": np.zeros((2, 5)).tolist()}}
        error = {"error": 0.1, "low": 0.05, "high": 0.2, "real": 0.1}
        gates = {"statistics": {"passed": True, "text": "well"}, "diversity": {"passed": passed, "text": "all alike"}}
        return {"passed": passed, "gates": gates, "statistics_error": error, "curves": curves}

    monkeypatch.setattr(gating, "gate_images", gate)
    return asked


def test_the_verdict_lies_beside_the_set_with_its_checksum_and_pictures(tmp_path, judged, caplog):
    real, made, unseen = write(tmp_path / "real.tif"), write(tmp_path / "made.tif", 700, seed=1), write(tmp_path / "unseen.tif", seed=2)
    with caplog.at_level(logging.INFO):
        Gating(made, real, PHASES, held_out_images=unseen, edge=8, steps=3, crops=2, seed=13).run()
    verdict = json.loads((tmp_path / "made_gates.json").read_text())
    assert verdict["images"] == [{"file": "made.tif", "sha256": hashlib.sha256(made.read_bytes()).hexdigest()}]
    assert not verdict["passed"] and verdict["number"] == 700 and verdict["judged"] == 500 and "curves" not in verdict
    for name in ("made_gates.png", "made_gates_curves.png"):
        assert min(Image.open(tmp_path / name).size) > 100
    real_images, images, held_out, settings = judged[0]
    stack = tifffile.imread(made)
    assert np.array_equal(images[0], stack[0]) and np.array_equal(images[-1], stack[-1]) and len(real_images) == len(held_out) == 2
    assert settings == {"edge": 8, "steps": 3, "crops": 2, "seed": 13}
    assert "FAILED: diversity: all alike" in caplog.text and "passed: statistics: well" in caplog.text and "does NOT pass" in caplog.text


def test_values_of_the_real_files_are_not_those_of_a_generated_set(tmp_path, judged):
    real, made = write(tmp_path / "real.tif"), write(tmp_path / "made.tif", seed=1)
    values = tifffile.imread(real)
    tifffile.imwrite(tmp_path / "values.tif", np.array([255, 0], np.uint8)[values], photometric="minisblack")
    (tmp_path / "made_provenance.json").write_text("{}")
    table = {255: 0, 0: 1}
    Gating(made, tmp_path / "values.tif", PHASES, hr_labels=table).run()
    assert np.array_equal(judged[0][0], values) and np.array_equal(judged[0][1], tifffile.imread(made))
    with pytest.raises(InputError, match="holds values .* hr_labels"):  # of somebody else's set nothing is known
        Gating(write(tmp_path / "other.tif"), tmp_path / "values.tif", PHASES, hr_labels=table).run()


def test_the_verdict_may_lie_elsewhere(tmp_path, judged):
    Gating(write(tmp_path / "made.tif"), write(tmp_path / "real.tif"), PHASES, output_dir=tmp_path / "there").run()
    assert (tmp_path / "there" / "made_gates.json").is_file() and not (tmp_path / "made_gates.json").exists()


def test_pixels_of_another_size_are_not_compared(tmp_path, judged):
    with pytest.raises(InputError, match=r"made.tif\): pixels of 1 µm, but those of hr_images are 0.5 µm"):
        Gating(write(tmp_path / "made.tif", pixel=1.0), write(tmp_path / "real.tif"), PHASES).run()
    assert not (tmp_path / "made_gates.json").exists()


def test_a_size_given_for_real_images_does_not_hide_that_of_generated_ones(tmp_path, judged):
    made = write(tmp_path / "made.tif", pixel=1.0)
    (tmp_path / "made_provenance.json").write_text('{"generated": true}')
    for size in (0.5, [0.5, 0.5]):
        with pytest.raises(InputError, match="made.tif: was made with pixels of 1 µm, but hr_voxel_size is 0.5 µm"):
            Gating(made, _blank(tmp_path / "real.tif"), PHASES, hr_voxel_size=size).run()
    assert not judged
    Gating(made, _blank(tmp_path / "real.tif"), PHASES, hr_voxel_size=1.0).run()
    assert len(judged) == 1


def test_phases_that_are_no_names():
    with pytest.raises(InputError, match="phases: clay; give a list of names"):  # no four phases c, l, a and y
        Gating("made.tif", "real.tif", "clay")


def test_pixels_of_unseen_images_of_another_size_are_not_compared(tmp_path, judged):
    real, made, unseen = write(tmp_path / "real.tif"), write(tmp_path / "made.tif"), write(tmp_path / "unseen.tif", pixel=1.0)
    with pytest.raises(InputError, match=r"held_out_images \(.*unseen.tif\): pixels of 1 µm, but those of hr_images are 0.5 µm"):
        Gating(made, real, PHASES, held_out_images=unseen).run()
    assert not judged and not (tmp_path / "made_gates.json").exists()


@pytest.mark.parametrize(("key", "value"), [("edge", 1), ("edge", 32.5), ("steps", 0), ("steps", "abc"), ("crops", -1), ("seed", -1)])
def test_settings_that_are_no_numbers_of_their_kind(key, value):
    with pytest.raises(InputError, match=f"{key}: {value}; give a whole number"):
        Gating("made.tif", "real.tif", PHASES, **{key: value})


def test_labels_without_a_phase(tmp_path, judged):
    with pytest.raises(InputError, match=r"^images \(.*made.tif\): holds values \(1\)"):
        Gating(write(tmp_path / "made.tif"), _blank(tmp_path / "real.tif"), ["pore"]).run()


def _blank(path: Path) -> Path:
    tifffile.imwrite(path, np.zeros((2, 20, 20), np.uint8))
    return path


def test_real_images_need_no_verdict(tmp_path, caplog):
    admit(write(tmp_path / "real.tif"))
    assert not caplog.records


def test_generated_images_need_one(tmp_path):
    made = write(tmp_path / "made.tif")
    (tmp_path / "made_provenance.json").write_text("{}")
    with pytest.raises(InputError, match="made.tif: generated, and not yet judged; run gating --images .*made.tif first; or set accept_failed to true"):
        admit(made)


@pytest.mark.parametrize("seed", [0, 13])
def test_a_verdict_decides(tmp_path, judged, caplog, seed):
    made = write(tmp_path / "made.tif")
    (tmp_path / "made_provenance.json").write_text("{}")
    Gating(made, write(tmp_path / "real.tif"), PHASES, seed=seed).run()
    if seed == 0:
        admit(made)
        return
    with pytest.raises(InputError, match=r"made.tif: did not pass the gates: diversity \(all alike\); or set accept_failed"):
        admit(made, "false")
    caplog.clear()
    admit(made, "true")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "accepted all the same" in record.getMessage()


def test_a_verdict_on_other_images_is_none(tmp_path, judged):
    made = write(tmp_path / "made.tif")
    Gating(made, write(tmp_path / "real.tif"), PHASES).run()
    write(made, seed=5)
    with pytest.raises(InputError, match="made.tif: not the images that made_gates.json judges; run gating again"):
        admit(made)


def test_a_verdict_given_by_name(tmp_path, judged):
    made = write(tmp_path / "made.tif")
    Gating(made, write(tmp_path / "real.tif"), PHASES, output_dir=tmp_path / "there", seed=13).run()
    admit(made)  # nothing beside it: taken for real
    with pytest.raises(InputError, match="did not pass"):
        admit(made, gates_file=tmp_path / "there" / "made_gates.json")
    with pytest.raises(InputError, match=r"absent.json: no such file; .* or null \(on the command line '\$None'\)"):
        admit(made, gates_file=tmp_path / "absent.json")
    with pytest.raises(InputError, match=r"one verdict for 3 sets .* set gates_file to null \(on the command line '\$None'\)"):
        admit_groups({"a": made, "b": made, "c": made}, ["a", "b", "c"], gates_file=tmp_path / "there" / "made_gates.json")


def test_a_set_of_other_phases_is_never_taken(tmp_path, judged):
    """The same names in another order would teach clay for pore."""
    made = write(tmp_path / "made.tif")
    Gating(made, write(tmp_path / "real.tif"), PHASES).run()
    admit(made, phases=PHASES)
    admit(made)  # a table gives the labels other names
    for accept in (False, True):
        with pytest.raises(InputError, match=r"made.tif: its phases are pore, solid \(made_gates.json\), but the config has solid, pore; correct phases"):
            admit_groups({"xy": made}, ["xy"], accept, phases=PHASES[::-1])
    with pytest.raises(InputError, match="its phases are pore, solid"):
        admit(write(tmp_path / "renamed.tif"), gates_file=tmp_path / "made_gates.json", phases=["pore", "grain"])
    (tmp_path / "made_provenance.json").write_text('{"phases": ["solid", "pore"]}')
    with pytest.raises(InputError, match=r"made_provenance.json"):  # whatever a verdict elsewhere says
        admit(made, gates_file=tmp_path / "made_gates.json", phases=PHASES)
    (tmp_path / "made_gates.json").unlink()
    with pytest.raises(InputError, match=r"its phases are solid, pore \(made_provenance.json\)"):
        admit(made, True, phases=PHASES)


def test_a_folder_may_be_judged_and_used_again(tmp_path, judged):
    """The pictures that a verdict leaves in the folder are no images of the set."""
    folder, real = tmp_path / "set", write(tmp_path / "real.tif")
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(2, size=(20, 20)).astype(np.uint8)).save(folder / f"img{i}.png")
    for _ in range(2):
        Gating(folder, real, PHASES).run()
        admit(folder, phases=PHASES)
        assert len(judged[-1][1]) == 3
    assert {path.name for path in folder.iterdir()} == {"img0.png", "img1.png", "img2.png", "img0_gates.json", "img0_gates.png", "img0_gates_curves.png"}


@pytest.mark.parametrize("text", ["{", "[]", '{"images": 3}', '{"images": [], "gates": {"a": 1}, "passed": true}'])
def test_a_file_that_is_no_verdict(tmp_path, text):
    made = write(tmp_path / "made.tif")
    (tmp_path / "made_gates.json").write_text(text)
    with pytest.raises(InputError, match="made_gates.json: no verdict of run gating"):
        admit(made)


def test_every_group_of_a_training_is_asked(tmp_path, judged):
    good, bad = write(tmp_path / "good.tif"), write(tmp_path / "bad.tif", seed=3)
    Gating(bad, good, PHASES, seed=13).run()
    admit_groups({"hr_xy": good, "image": "no image"}, ["hr_xy"])
    with pytest.raises(InputError, match="bad.tif: did not pass"):
        admit_groups({"hr_xy": good, "hr_xz": bad}, ["hr_xy", "hr_xz"])


def test_real_and_generated_images_in_one_list(tmp_path, judged):
    """A generated file that passed by itself, a real one beside it, in either order."""
    real, made, bad = (write(tmp_path / f"{name}.tif", seed=i) for i, name in enumerate(("real", "made", "bad")))
    for path, seed in ((made, 0), (bad, 13)):
        path.with_name(f"{path.stem}_provenance.json").write_text("{}")
        with pytest.raises(InputError, match=f"{path.stem}.tif: generated, and not yet judged; run gating --images .*{path.stem}.tif first"):
            admit([real, path])
        Gating(path, real, PHASES, seed=seed).run()
    for order in ([real, made], [made, real]):
        admit(order)
    for order in ([real, bad], [bad, real], [made, bad], [bad, made]):
        with pytest.raises(InputError, match="did not pass|not the images"):
            admit(order)
    write(made, seed=7)
    with pytest.raises(InputError, match="made.tif: not the images"):
        admit([real, made])
