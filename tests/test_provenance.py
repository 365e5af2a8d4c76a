"""The record beside trained weights."""

from __future__ import annotations

import hashlib
import json
import subprocess
from types import SimpleNamespace

import monai
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from bundle import provenance
from bundle.errors import InputError
from bundle.io import Volume, read_volume, write_volume
from bundle.provenance import TrainingRecord, commit, processor, sha256, versions


def test_checksum_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"rock" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"rock" * 100_000).hexdigest()


def test_versions_are_those_installed(bundle_root):
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    found = versions()
    assert (found["bundle"], found["monai"], found["torch"]) == (metadata["version"], monai.__version__, torch.__version__)


def test_processor_has_a_name():
    assert "cores" in processor()


def test_commit_is_that_of_git_and_shows_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("one")
    for arguments in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert head.startswith(commit()) and len(commit()) == 12
    (tmp_path / "file").write_text("two")
    assert commit().endswith("+") and head.startswith(commit()[:-1])


def test_training_record(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("lr.tif", "images/b.tif", "images/a.tif"):
        (tmp_path / name).write_text(name)
    checkpoint = SimpleNamespace(seconds=1800.0, snapshot=None)
    data = {"image": str(tmp_path / "lr.tif"), "hr": str(tmp_path / "images")}
    record = TrainingRecord(tmp_path / "model.json", data, {"seed": 3}, checkpoint)
    engine = Engine(lambda *_: None)
    engine.generator_steps = 3
    engine.state.device = torch.device("cpu")
    record.attach(engine)
    engine.run([0] * 3, max_epochs=2)
    text = (tmp_path / "model.json").read_text()
    found = json.loads(text)
    assert (found["epochs"], found["iterations"], found["generator_steps"], found["hours"]) == (2, 6, 3, 0.5)
    assert found["settings"] == {"seed": 3} and found["versions"] == versions() and found["hardware"] == processor()
    assert [item["file"] for item in found["data"]["hr"]] == ["a.tif", "b.tif"]
    assert found["data"]["image"] == [{"file": "lr.tif", "sha256": hashlib.sha256(b"lr.tif").hexdigest()}]
    assert str(tmp_path) not in text  # no folders of the machine


def test_a_snapshot_has_the_record_of_its_epoch(tmp_path):
    (tmp_path / "lr.tif").write_text("scan")
    checkpoint = SimpleNamespace(seconds=0.0, snapshot=None)
    engine = Engine(lambda *_: None)
    engine.generator_steps, engine.state.device = 1, torch.device("cpu")

    @engine.on(Events.EPOCH_COMPLETED)
    def save(engine):
        epoch = engine.state.epoch
        checkpoint.snapshot = tmp_path / f"model_{epoch:04d}.pt" if epoch % 2 == 0 else None

    TrainingRecord(tmp_path / "model.json", {"image": str(tmp_path / "lr.tif")}, {}, checkpoint).attach(engine)
    engine.run([0], max_epochs=5)
    epochs = {path.name: json.loads(path.read_text())["epochs"] for path in tmp_path.glob("*.json")}
    assert epochs == {"model.json": 5, "model_0002.json": 2, "model_0004.json": 4}


def test_the_record_tells_one_scan_from_another_behind_the_same_header(tmp_path):
    """An .mhd names the file of its voxels; what was trained on is known by its labels, in whatever format they come."""
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3
    sums = []
    for i, values in enumerate((labels, labels, 2 - labels)):
        path = tmp_path / str(i) / ("scan.nii" if i == 1 else "scan.mhd")
        path.parent.mkdir()
        write_volume(path, Volume(values, (1.0, 1.0, 1.0)))
        checkpoint = SimpleNamespace(seconds=0.0, snapshot=None)
        record = TrainingRecord(path.with_name("model.json"), {"image": str(path)}, {}, checkpoint, labels=read_volume(path).array)
        engine = Engine(lambda *_: None)
        engine.generator_steps, engine.state.device = 1, torch.device("cpu")
        record.attach(engine)
        engine.run([0], max_epochs=1)
        (found,) = json.loads(path.with_name("model.json").read_text())["data"]["image"]
        sums.append((found["sha256"], found["labels_sha256"]))
    expected = hashlib.sha256(b"(2, 3, 4)" + labels.tobytes()).hexdigest()
    assert sums[0][1] == sums[1][1] == expected != sums[2][1] and sums[0][0] == sums[2][0] != sums[1][0]


@pytest.mark.parametrize("text", ["{ no JSON", "[1, 2]", "3"])
def test_a_file_beside_the_weights_that_is_no_record_says_nothing(tmp_path, text):
    (tmp_path / "other.pt").write_text("weights")
    (tmp_path / "other.json").write_text(text)
    assert provenance.ancestor(tmp_path / "other.pt") == {"file": "other.pt", "sha256": hashlib.sha256(b"weights").hexdigest()}


@pytest.mark.parametrize("name", ["checkpoint.pt", "model.pt", "other.pt"])
def test_what_a_training_started_from(tmp_path, name):
    """The record beside it goes along, and so the records before; a file without a record has a checksum at least."""
    (tmp_path / name).write_text("weights")
    (tmp_path / "lr.tif").write_text("scan")
    (tmp_path / "model.json").write_text(json.dumps({"generator_steps": 7, "hours": 0.5, "started_from": {"file": "first.pt"}, "settings": {}}))
    checkpoint = SimpleNamespace(seconds=0.0, snapshot=None)
    record = TrainingRecord(tmp_path / "new.json", {"image": str(tmp_path / "lr.tif")}, {}, checkpoint, str(tmp_path / name))
    engine = Engine(lambda *_: None)
    engine.generator_steps = 1
    engine.state.device = torch.device("cpu")
    record.attach(engine)
    engine.run([0], max_epochs=1)
    expected = {"file": name, "sha256": hashlib.sha256(b"weights").hexdigest()}
    if name != "other.pt":
        expected |= {"generator_steps": 7, "hours": 0.5, "started_from": {"file": "first.pt"}}
    assert json.loads((tmp_path / "new.json").read_text())["started_from"] == expected


def _trained(folder, epochs: int, resumed: bool, settings: dict, start=None, labels=None, hr: str = "hr.tif", groups=("hr",)) -> dict:
    """A run to the given epoch, of one epoch or resumed from one, and its record."""
    data = {"image": str(folder / "lr.tif"), **{group: str(folder / hr) for group in groups}}
    engine = Engine(lambda *_: None)
    engine.state.device, engine.generator_steps = torch.device("cpu"), 0
    if resumed:
        engine.load_state_dict({"epoch_length": 1, "max_epochs": epochs, "iteration": 1})
    TrainingRecord(folder / "model.json", data, settings, SimpleNamespace(seconds=0.0, snapshot=None), start, labels).attach(engine)
    engine.run([0], max_epochs=epochs)
    return json.loads((folder / "model.json").read_text())


def test_a_resumed_training_goes_on_with_its_record(tmp_path, monkeypatch, caplog):
    for name in ("lr.tif", "hr.tif", "first.pt"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(provenance, "commit", lambda: "one")
    first = _trained(tmp_path, 1, False, {"seed": 0, "rates": (1, 2)}, tmp_path / "first.pt")
    again = _trained(tmp_path, 2, True, {"seed": 0, "rates": (1, 2)})  # without start_from, which a resume does not need
    assert again == first | {"epochs": 2, "iterations": 2} and not caplog.records
    (tmp_path / "first.pt").write_text("trained further since")
    assert _trained(tmp_path, 2, True, {"seed": 0, "rates": (1, 2)}, tmp_path / "first.pt")["started_from"] == first["started_from"]
    monkeypatch.setattr(provenance, "commit", lambda: "two")
    other = _trained(tmp_path, 2, True, {"seed": 7, "rates": (1, 2)})
    assert other["resumed"] == [{"epochs": 2, "commit": "one", "settings": {"seed": 0}}] and other["settings"]["seed"] == 7
    assert "resumed with other settings than until epoch 2: seed 0, now 7" in caplog.text
    assert _trained(tmp_path, 2, True, {"seed": 7, "rates": (1, 2)})["resumed"] == other["resumed"]
    caplog.clear()
    longer = _trained(tmp_path, 2, True, {"seed": 7, "rates": (1, 2), "max_epochs": 9})
    assert longer["resumed"] == other["resumed"]
    assert _trained(tmp_path, 2, True, {"seed": 7, "rates": (1, 2), "max_epochs": 12})["resumed"][1]["settings"] == {"max_epochs": 9}
    assert not caplog.records  # a training may be made longer
    assert "resumed" not in _trained(tmp_path, 1, False, {"seed": 3})  # anew in the same folder


def test_a_training_is_not_resumed_on_other_files(tmp_path):
    for name in ("lr.tif", "hr.tif", "other.tif"):
        (tmp_path / name).write_text(name)
    labels = np.zeros((2, 2, 2), np.uint8)
    before = _trained(tmp_path, 1, False, {}, labels=labels)
    with pytest.raises(InputError, match=r"resume: until now the training learned from other data \(hr.tif\) than is given \(other.tif\); give the same files"):
        _trained(tmp_path, 2, True, {}, labels=labels, hr="other.tif")
    with pytest.raises(InputError, match=r"other data \(hr.tif\) than is given \(no images of hr\)"):
        _trained(tmp_path, 2, True, {}, labels=labels, hr="other.tif", groups=("hr_xy", "hr_xz", "hr_yz"))  # a set a plane
    assert json.loads((tmp_path / "model.json").read_text()) == before
    (tmp_path / "lr.tif").write_text("the same labels, another header")
    _trained(tmp_path, 2, True, {}, labels=labels)
    with pytest.raises(InputError, match=r"other data \(lr.tif\) than is given \(lr.tif\)"):
        (tmp_path / "lr.tif").write_text("other labels")
        _trained(tmp_path, 2, True, {}, labels=labels + 1)


@pytest.mark.parametrize("name", ["phases", "commit", "hardware"])
def test_the_shipped_record_says(bundle_root, name):
    record = json.loads((bundle_root / "models" / "model.json").read_text())
    assert record.get(name) or record["settings"].get(name)


def test_checksum_of_a_folder_is_that_of_its_names_and_bytes(tmp_path):
    folder = tmp_path / "scan.ome.zarr"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "b").write_bytes(b"two")
    (folder / "a").write_bytes(b"one")
    lines = f"0/b {hashlib.sha256(b'two').hexdigest()}\na {hashlib.sha256(b'one').hexdigest()}\n"
    first = sha256(folder)
    assert first == hashlib.sha256(lines.encode()).hexdigest()
    (folder / "a").rename(folder / "c")
    assert sha256(folder) != first
