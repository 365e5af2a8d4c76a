"""model.pt is written whole, read safely, and only into the network it belongs to."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from bundle.checkpoint import load_checkpoint, load_model, save_model
from bundle.errors import InputError
from bundle.networks.generator import LevelGenerator
from bundle.networks.paper import PaperGenerator

PHASES, LR_PHASES = ["pore", "grain", "clay"], ["pore", "grain"]


def make(channels=(4, 3), blocks=1) -> LevelGenerator:
    return LevelGenerator(3, 3, channels=channels, blocks=blocks)


@pytest.fixture
def saved(tmp_path) -> tuple[Path, LevelGenerator]:
    network = make().to(memory_format=torch.channels_last_3d)
    save_model(tmp_path / "models" / "model.pt", network, PHASES, LR_PHASES)
    return tmp_path / "models" / "model.pt", network


def load(path, network=None, phases=PHASES, lr_phases=LR_PHASES, scale_factor=2):
    return load_model(make() if network is None else network, path, phases, lr_phases, scale_factor)


def test_round_trip(saved):
    path, network = saved
    target = make().train()
    loaded = load(path, target)
    assert loaded is target and not loaded.training
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    content = torch.load(path, weights_only=True)
    assert sorted(content) == ["learned_with", "lr_phases", "model", "phases", "scale_factor"]
    assert (content["phases"], content["lr_phases"], content["scale_factor"]) == (PHASES, LR_PHASES, 2)
    assert os.listdir(path.parent) == ["model.pt"]


def test_the_voxel_size_of_the_scan_is_told_and_changes_nothing_else(saved, tmp_path):
    path, network = saved
    for name in ("a.pt", "b.pt"):
        save_model(tmp_path / name, network, PHASES, LR_PHASES, [torch.tensor(3.5), 3.5, 7])
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert content.pop("lr_voxel_size") == [3.5, 3.5, 7.0] and content.keys() == torch.load(path, weights_only=True).keys()
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    load(tmp_path / "a.pt")


@pytest.mark.parametrize(("name", "value"), [("logit_bound", 1.0), ("grain_perturbation", 2.0)])
def test_settings_that_are_no_weights_are_those_of_the_training(tmp_path, name, value):
    network = LevelGenerator(3, 3, channels=(4, 3), blocks=1, **{name: value})
    save_model(tmp_path / "model.pt", network, PHASES, LR_PHASES)
    load(tmp_path / "model.pt", LevelGenerator(3, 3, channels=(4, 3), blocks=1, **{name: value}))
    with pytest.raises(InputError, match=f"model.pt: was trained with {name} {value:g}, but network_def has"):
        load(tmp_path / "model.pt")


def test_noise_that_a_model_did_not_learn_with_is_told(tmp_path, caplog):
    silent = LevelGenerator(3, 3, channels=(4, 3), blocks=1, noise_std=0.0)
    save_model(tmp_path / "model.pt", silent, PHASES, LR_PHASES)
    load_model(make(), tmp_path / "model.pt", PHASES, LR_PHASES, 2, noise_std=0.0)
    assert not caplog.records
    load_model(make(), tmp_path / "model.pt", PHASES, LR_PHASES, 2, noise_std=1.0)
    assert "model.pt: was trained with noise_std 0.0, and is given noise of 1.0" in caplog.text


def test_files_of_before_1_0_0_do_not_say_how_they_learned(saved):
    path, _ = saved
    content = torch.load(path, weights_only=True)
    del content["learned_with"]
    torch.save(content, path)
    load_model(LevelGenerator(3, 3, channels=(4, 3), blocks=1, logit_bound=1.0), path, PHASES, LR_PHASES, 2, noise_std=0.0)


def test_names_that_are_numbers(tmp_path):
    """YAML and the command line read 0 and yes as they like; the file holds texts."""
    save_model(tmp_path / "model.pt", make(), [0, 1, True], [0, 1])
    load(tmp_path / "model.pt", phases=[0, 1, True], lr_phases=[0, 1])
    with pytest.raises(InputError, match="was trained with phases"):
        load(tmp_path / "model.pt", phases=[0, 1, False], lr_phases=[0, 1])


def flip(path: Path) -> None:
    """One bit of a weight: torch.load would not notice."""
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["model"]["trunk.0.weight"].numpy().tobytes()
    content[content.index(weight) + 100] ^= 1
    path.write_bytes(content)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("malicious",)


DAMAGE = {
    "missing": (Path.unlink, "no such file"),
    "empty": (lambda p: p.write_bytes(b""), "damaged or incomplete"),
    "text": (lambda p: p.write_text("no model"), "damaged or incomplete"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-500]), "damaged or incomplete"),
    "flipped": (flip, "checksum"),
    "malicious": (lambda p: torch.save({"model": Malicious()}, p), "not a checkpoint"),
    "list": (lambda p: torch.save([1, 2], p), "no trained model"),
    "no weights": (lambda p: torch.save({"model": 3, "phases": PHASES, "lr_phases": PHASES, "scale_factor": 4}, p), "holds no weights"),
    "training checkpoint": (lambda p: torch.save({"network": {}, "phases": PHASES}, p), "lacks model, lr_phases, scale_factor"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_no_model(saved, damage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, _ = saved
    spoil, words = DAMAGE[damage]
    spoil(path)
    with pytest.raises(InputError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("malicious").exists()


def test_not_finite_weights(saved):
    path, network = saved
    with torch.no_grad():
        network.levels[0].head.bias[0] = float("nan")
    save_model(path, network, PHASES, LR_PHASES)
    with pytest.raises(InputError, match="levels.0.head.bias.*NaN"):
        load(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": make(channels=(5, 3))}, r"trunk.0.weight is \(4, 9, 3, 3, 3\) in the file, \(5, 9, 3, 3, 3\) in network_def"),
        ({"network": make(blocks=2)}, "trunk.3.conv1.weight is not in the file"),
        ({"network": make(blocks=0)}, "trunk.2.conv1.weight is only in the file"),
        ({"network": make(channels=(4, 3, 3))}, "4 times finer, but scale_factor is 2"),
        ({"network": make(channels=(4, 3, 3)), "scale_factor": 4}, "scale_factor 2, but the config has 4"),
        ({"network": PaperGenerator(3, 3, width=16), "scale_factor": 8}, "scale_factor 2, but the config has 8"),
        ({"phases": ["pore", "clay", "grain"]}, r"phases \['pore', 'grain', 'clay'\], but the config has \['pore', 'clay', 'grain'\]"),
        ({"lr_phases": PHASES}, r"lr_phases \['pore', 'grain'\], but the config has"),
    ],
)
def test_a_model_of_another_network_or_rock(saved, options, words):
    network = options.get("network") or make()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError, match=words) as caught:
        load(saved[0], **{"network": network, **options})
    assert "\n" not in str(caught.value)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_failed_save_keeps_the_old_file(saved, monkeypatch):
    path, network = saved
    before = path.read_bytes()

    def fail(content, target):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(InputError, match="No space left"):
        save_model(path, network, PHASES, LR_PHASES)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["model.pt"]


def test_equal_weights_are_equal_bytes(saved, tmp_path):
    """The map of trust knows its model by the hash of the file."""
    path, network = saved
    save_model(tmp_path / "again.pt", network, PHASES, LR_PHASES)
    assert (tmp_path / "again.pt").read_bytes() == path.read_bytes()


def test_load_checkpoint_returns_what_was_saved(tmp_path):
    torch.save({"position": {"epoch": 3}}, tmp_path / "last.pt")
    assert load_checkpoint(tmp_path / "last.pt") == {"position": {"epoch": 3}}


def test_a_full_disk_is_one_line_and_keeps_the_old_file(saved):
    """A real process that may write only small files; torch's own writer raises a RuntimeError of its inner workings."""
    path, _ = saved
    old = path.read_bytes()
    text = f"""
        import resource, sys
        import torch
        from bundle.checkpoint import save_state
        from bundle.errors import InputError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            save_state({str(path)!r}, {{"model": torch.zeros(100_000)}})
        except InputError as error:
            sys.exit(str(error))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 1
    assert done.stderr.strip() == f"{path}: cannot be written (the disk is full, or torch could not write to it); choose another output_dir or free it"
    assert path.read_bytes() == old and list(path.parent.iterdir()) == [path]
