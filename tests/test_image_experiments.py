"""The experiment on HR images, with the bundle's own commands replaced: who learns from what, and what is never seen."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from bundle import campaign, factor_experiments, image_experiments, judging
from bundle.errors import InputError
from bundle.io import Volume, read_images, read_volume, write_volume
from bundle.metrics import mean_relative_error, statistics, upsample_nearest
from bundle.workbench import Lab
from tests.commands import Commands

PHASES = ["pore", "quartz", "feldspar", "clay"]


@pytest.fixture
def commands(monkeypatch) -> Commands:
    return Commands(monkeypatch)


@pytest.fixture
def judged(monkeypatch) -> list[tuple[str, dict]]:
    """Stands in for the gates and the networks that compare; holds what the gates were given."""
    gates: list[tuple[str, dict]] = []

    class Gates:
        def __init__(self, images, hr_images, phases, held_out_images):
            self.path = Path(images).with_name("hr_generated_gates.json")
            gates.append((images, {"real": hr_images, "held_out": held_out_images, "phases": phases}))

        def run(self):
            self.path.write_text("{}")

    monkeypatch.setattr(image_experiments, "Gating", Gates)
    monkeypatch.setattr(judging, "two_sample_auc", lambda real, made, n, edge: {"auc": 0.25 + len(real) / 2, "error": 0.125})
    monkeypatch.setattr(image_experiments, "real_reference", lambda real, n, edge: {"auc": 0.5 + len(real) / 32})
    monkeypatch.setattr(image_experiments, "TRAIN", ((0, 10), None, None))
    monkeypatch.setattr(image_experiments, "TEST", ((10, 18), (0, 8), (0, 8)))
    return gates


@pytest.fixture
def rock(tmp_path) -> dict[str, str]:
    rng = np.random.default_rng(0)
    files = {"lr_image": (rng.integers(0, 4, (18, 12, 12)), (3.5,) * 3), "hr_images": (rng.integers(0, 4, (4, 64, 64)), (3.5, 0.4375, 0.4375))}
    for name, (labels, size) in files.items():
        write_volume(tmp_path / f"{name}.tif", Volume(labels.astype(np.uint8), size))
    return {name: str(tmp_path / f"{name}.tif") for name in files}


def lab_in(folder: Path) -> Lab:
    return Lab(folder / "lab", epochs=9)


def test_each_source_teaches_as_long_and_one_image_is_never_seen(tmp_path, commands, judged, rock):
    (tmp_path / "others.tif").write_bytes(b"")
    table = image_experiments.hr_sources(
        lab_in(tmp_path), **rock, others=str(tmp_path / "others.tif"), phases=PHASES, left_out=2, generator_epochs=5, images=6
    )
    folder = tmp_path / "lab" / "hr_sources" / "without_2"
    real, pixel = read_images(rock["hr_images"])
    kept, size = read_images(folder / "train" / "hr.tif")
    assert np.array_equal(np.stack(kept), np.stack([real[i] for i in (0, 1, 3)])) and size == pixel == (0.4375, 0.4375)
    assert np.array_equal(read_images(folder / "test" / "hr.tif")[0][0], real[2])
    scan = read_volume(rock["lr_image"]).array
    assert np.array_equal(read_volume(folder / "train" / "lr.tif").array, scan[:10])
    test = read_volume(folder / "test" / "lr.tif")
    assert np.array_equal(test.array, scan[10:18, :8, :8]) and test.voxel_size == (3.5,) * 3
    # the generator, then the seven super-resolutions: no command but the gates ever names the image that is kept out
    trainings = [(configs, given) for run, configs, given in commands.calls if run == "training"]
    (configs, generator), *others = trainings
    assert configs == ("hr_synthesis.yaml",) and generator["hr_images"] == str(folder / "train" / "hr.tif") and generator["max_epochs"] == "5"
    stack = str(folder / "generator" / "images" / "hr_generated.tif")
    sources = {"real": str(folder / "train" / "hr.tif"), "our generated": stack, "others' generated": str(tmp_path / "others.tif")}
    critics, patches = ("train.yaml", "critics.yaml"), ("train.yaml",)
    titles = ["real, ADA critic", *(f"{source}, {teacher}" for teacher in ("plain critic", "patches") for source in sources)]
    assert len(others) == len(titles)
    for title, (configs, given) in zip(titles, others, strict=True):
        source, teacher = title.split(", ")
        assert given["hr_images"] == sources[source] and given["lr_image"] == str(folder / "train" / "lr.tif")
        learned = configs, given.get("augment_critics"), given["max_epochs"]  # a step with patches takes four times as long: 9 // 4
        assert learned == {"ADA critic": (critics, "true", "9"), "plain critic": (critics, "false", "9"), "patches": (patches, None, "2")}[teacher]
    assert judged == [(stack, {"real": str(folder / "train" / "hr.tif"), "held_out": str(folder / "test" / "hr.tif"), "phases": PHASES})]
    # the stubs' super-resolution is nearest neighbour: every row is that of the scan
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")][2:]
    assert [row[0] for row in rows] == ["LR, nearest", *titles]
    values = statistics(upsample_nearest(test.array, 8), 4)
    unseen = mean_relative_error(values, statistics(real[2], 4))
    every = mean_relative_error(values, np.mean([statistics(image, 4) for image in real], 0))
    for row in rows:
        assert row[1:3] == [f"{unseen:.1%}", f"{every:.1%}"] and row[4:] == ["0.75 ± 0.12", "100.0%"]
    assert "real images against each other: AUC 0.62" in table  # 0.5 + 4 / 32
    assert (tmp_path / "lab" / "hr_sources_2.png").stat().st_size > 10000
    calls = len(commands.calls)
    assert calls == 2 + 7 * 2
    assert table == image_experiments.hr_sources(
        lab_in(tmp_path), **rock, others=str(tmp_path / "others.tif"), phases=PHASES, left_out=2, generator_epochs=5, images=6
    )
    assert len(commands.calls) == calls and len(judged) == 1


def test_two_point_error_is_that_of_the_unseen_image(tmp_path, commands, judged, rock):
    """A scan that is all one phase, and images of the same phase: no error but in none."""
    for name, shape, size in (("lr_image", (18, 12, 12), (3.5,) * 3), ("hr_images", (4, 64, 64), (3.5, 0.4375, 0.4375))):
        write_volume(Path(rock[name]), Volume(np.zeros(shape, np.uint8), size))
    image_experiments.hr_sources(lab_in(tmp_path), **rock, others=None, phases=PHASES, left_out=0, generator_epochs=1, images=2)
    found = json.loads((tmp_path / "lab" / "hr_sources" / "without_0" / "judged_nearest.json").read_text())
    assert found["two_point"] == pytest.approx(0.0, abs=1e-6) and found["statistics"] == found["all"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("left_out", "images"), [(4, 4), (-1, 4), (0, 2)])
def test_too_few_images(tmp_path, commands, judged, rock, left_out, images):
    write_volume(Path(rock["hr_images"]), Volume(np.zeros((images, 64, 64), np.uint8), None))
    with pytest.raises(InputError, match=f"{images} images; with image {left_out} kept out 2 or more must be left"):
        image_experiments.hr_sources(lab_in(tmp_path), **rock, others=None, phases=PHASES, left_out=left_out)
    assert not commands.calls and not (tmp_path / "lab").exists()


def test_images_of_several_sizes_are_refused_before_anything_is_made(tmp_path, commands, judged, rock):
    (tmp_path / "images").mkdir()
    for i, edge in enumerate((64, 64, 40)):
        write_volume(tmp_path / "images" / f"{i}.tif", Volume(np.zeros((1, edge, 64), np.uint8), None))
    with pytest.raises(InputError, match="images: images of several sizes"):
        image_experiments.hr_sources(lab_in(tmp_path), **rock | {"hr_images": str(tmp_path / "images")}, others=None, phases=PHASES)
    assert not commands.calls and not (tmp_path / "lab").exists()


def test_a_generator_that_learns_nothing_is_refused(tmp_path, commands, judged, rock):
    with pytest.raises(InputError, match="--generator-epochs: 0; give a whole number of epochs, such as 50, 1 or more"):
        image_experiments.hr_sources(lab_in(tmp_path), **rock, others=None, phases=PHASES, generator_epochs=0)
    assert not commands.calls and not (tmp_path / "lab").exists()


@pytest.mark.parametrize("experiment", [
    lambda lab, files: image_experiments.hr_sources(lab, **files, others=None, phases=PHASES),
    lambda lab, files: factor_experiments.factors(lab, **files, phases=PHASES),
    lambda lab, files: campaign.campaign(lab, **files, phases=PHASES),
])  # fmt: skip
@pytest.mark.parametrize(("shape", "most", "message"), [
    ((17, 12, 12), 3, "lr_image.tif: 17 x 12 x 12 voxels; the parts to learn from and to judge on take 18 x 8 x 8: give a larger scan"),
    ((18, 7, 12), 3, "lr_image.tif: 18 x 7 x 12 voxels; the parts"),
    ((18, 12, 12), 255, "lr_image.tif: holds values (255) where 0, 1, 2, 3 are known; save it with 0 to 3"),
])  # fmt: skip
def test_a_scan_that_cannot_be_parted_is_refused_before_anything_is_written(tmp_path, commands, judged, rock, experiment, shape, most, message):
    labels = np.zeros(shape, np.uint8)
    labels[0, 0, 0] = most
    write_volume(Path(rock["lr_image"]), Volume(labels, (3.5,) * 3))
    with pytest.raises(InputError, match=re.escape(message)):
        experiment(lab_in(tmp_path), rock)
    assert not (tmp_path / "lab").exists() and not commands.calls


@pytest.mark.parametrize("name", ["lr_image", "hr_images"])
def test_another_scan_or_other_images_are_told_and_nothing_is_made_of_them(tmp_path, commands, judged, rock, caplog, name):
    run = dict(others=None, phases=PHASES, left_out=1, generator_epochs=1, images=2)
    table = image_experiments.hr_sources(lab_in(tmp_path), **rock, **run)
    folder = tmp_path / "lab" / "hr_sources" / "without_1"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    volume = read_volume(rock[name])
    write_volume(Path(rock[name]), Volume(3 - volume.array, volume.voxel_size))
    caplog.clear()
    calls = len(commands.calls)
    assert image_experiments.hr_sources(lab_in(tmp_path), **rock, **run) == table
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith(f"{folder}: used as it is, made with {'scan' if name == 'lr_image' else 'images'} ")
    assert len(commands.calls) == calls and {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_images_of_others_that_are_not_there_are_told_before_anything_is_made(tmp_path, commands, judged, rock):
    with pytest.raises(InputError, match="absent.tif: cannot be read"):
        image_experiments.hr_sources(lab_in(tmp_path), **rock, others=str(tmp_path / "absent.tif"), phases=PHASES)
    assert not commands.calls and not (tmp_path / "lab").exists()


def test_a_generator_of_other_epochs_is_told(tmp_path, commands, judged, rock, caplog):
    for epochs in (1, 2):
        image_experiments.hr_sources(lab_in(tmp_path), **rock, others=None, phases=PHASES, generator_epochs=epochs, images=2)
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith(f"{tmp_path / 'lab' / 'hr_sources' / 'without_0' / 'generator'}: used as it is, made with epochs 1, now 2;")


def test_a_generator_whose_images_were_broken_off_is_not_taken_for_one_of_other_epochs(tmp_path, commands, judged, rock, monkeypatch, caplog):
    def killed(run, configs, *options):
        if configs == ["hr_synthesis_inference.yaml"]:
            raise InputError("killed")
        commands.run(run, configs, *options)

    run = dict(others=None, phases=PHASES, left_out=0, images=2)
    monkeypatch.setattr(Lab, "bundle", staticmethod(killed))
    with pytest.raises(InputError, match="killed"):
        image_experiments.hr_sources(lab_in(tmp_path), **rock, generator_epochs=1, **run)
    monkeypatch.setattr(Lab, "bundle", commands.run)
    image_experiments.hr_sources(lab_in(tmp_path), **rock, generator_epochs=2, **run)
    folder = tmp_path / "lab" / "hr_sources" / "without_0" / "generator"
    assert [given["max_epochs"] for given in commands.of("training") if given["output_dir"] == str(folder)] == ["1"]
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith(f"{folder}: used as it is, made with epochs 1, now 2;")
    assert json.loads((folder / "settings.json").read_text())["epochs"] == 1
