"""`run training` from the outside: kills and resumes, every override file, every wiring, and input that cannot be used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from monai.bundle import ConfigParser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from bundle.checkpoint import save_model
from bundle.errors import InputError, find_input_error
from bundle.io.source import LabelSource
from bundle.losses.adversarial import RelativisticLoss, WassersteinLoss
from bundle.losses.confusion import ConfusionConsistency
from bundle.losses.consistency import NearestConsistency
from bundle.losses.feedback import StatisticsFeedback
from bundle.losses.patches import SlicedWasserstein
from tests.comparison import same

TINY = {  # the default networks on a few voxels
    "network_def#channels": [8, 8, 8, 8],
    "network_def#blocks": 1,
    "network_def#grain_radius": 1,
    "patches#patch": 3,
    "boxes": [6, 4, 2],
    "slices_per_plane": 2,
    "batch_size": 1,
    "epoch_length": 3,
    "max_epochs": 1,
    "amp": False,
}
BARE = {key: value for key, value in TINY.items() if not key.startswith("patches#")}  # for files that take the patch distance away
CRITICS = BARE | {"critic_def#channels": [4, 4], "warmup_iterations": 1}  # for critics.yaml

KILLER = '''
"""Kills its process (SIGKILL) at an iteration, or in the middle of the writing of a checkpoint, or interrupts it (SIGINT)."""
import os
import signal

import torch
from ignite.engine import Events


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def at(trainer, iteration):
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), kill)


def interrupted(trainer, iteration):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job, as of a CI, ignores it
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), lambda: os.kill(os.getpid(), signal.SIGINT))


def writing(trainer, epoch):
    save = torch.save

    def torn(content, file):
        save(content, file)
        if trainer.state.epoch == epoch and str(file.name).endswith("checkpoint.pt"):
            file.truncate(file.tell() // 2)
            kill()

    torch.save = torn
'''


@pytest.fixture
def cli(tmp_path, bundle_root) -> Callable[..., subprocess.CompletedProcess]:
    """`python -m monai.bundle run training`, tiny, from a folder that is not the bundle's."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "killer.py").write_text(KILLER)

    def run(output: str | Path, *, kill: str | None = None, **overrides) -> subprocess.CompletedProcess:
        files = [str(bundle_root / "configs" / "train.yaml")]
        if kill:
            files.append(str(folder / "kill.yaml"))
            Path(files[1]).write_text(f'+imports: ["$import killer"]\ninitialize: ["$torch.manual_seed(@seed)", "$killer.{kill}"]\n')
        command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(files)]
        for key, value in ({"output_dir": str(tmp_path / output)} | TINY | overrides).items():
            command += [f"--{key}", str(value)]
        environment = os.environ | {"PYTHONPATH": str(bundle_root), "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)

    return run


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def error_line(result: subprocess.CompletedProcess) -> str:
    """The one line that a failed run ends with."""
    assert result.returncode == 1, result.stderr[-2000:]
    assert "Traceback" not in result.stderr, result.stderr[-2000:]
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and result.stderr.strip().endswith(lines[0])
    return lines[0]


def test_killed_twice_and_resumed_it_has_the_weights_of_the_uninterrupted_run(cli, tmp_path):
    settings = {"max_epochs": 4, "amp": True}
    assert cli("whole", **settings).returncode == 0

    assert cli("broken", kill="at(@train#trainer, 8)", **settings).returncode == -signal.SIGKILL
    path = tmp_path / "broken" / "checkpoint.pt"
    assert load(path)["position"]["iteration"] == 6  # the last whole epoch
    log = EventAccumulator(str(path.parent / "tensorboard")).Reload()
    assert [event.step for event in log.Scalars("watch/noise_diversity")] == [3, 6]
    assert [event.step for event in log.Images("LR, SR, HR")] == [3, 6]

    result = cli("broken", kill="writing(@train#trainer, 3)", resume=True, **settings)
    assert result.returncode == -signal.SIGKILL and "at epoch 2" in result.stdout
    assert load(path)["position"]["iteration"] == 6  # half a file lies beside it, not in its place
    assert [name for name in os.listdir(path.parent) if name.startswith(".partial-")]

    result = cli("broken", resume=True, **settings)
    assert result.returncode == 0 and "at epoch 2" in result.stdout
    for name in ("checkpoint.pt", "model.pt"):
        assert same(load(tmp_path / "broken" / name), load(tmp_path / "whole" / name)), name
    assert load(path)["position"] | {"seconds": 0} == {"epoch": 4, "iteration": 12, "seconds": 0}
    model = load(tmp_path / "whole" / "model.pt")
    assert (model["phases"], model["scale_factor"]) == (["pore", "quartz", "feldspar", "clay"], 8)

    before = {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()}
    message = error_line(cli("broken", resume=True, **settings))
    assert str(path) in message and "trained for 4 epochs already; raise max_epochs (now 4)" in message
    assert {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()} == before


def test_an_interrupted_training_ends_in_one_line_and_keeps_its_checkpoint(cli, tmp_path):
    result = cli("broken", kill="interrupted(@train#trainer, 4)", max_epochs=2)
    assert result.returncode == 130 and "Traceback" not in result.stderr, result.stderr[-2000:]
    assert result.stderr.splitlines()[-1] == "stopped; the same command goes on (training: with --resume true)"
    assert load(tmp_path / "broken" / "checkpoint.pt")["position"]["iteration"] == 3


def test_bad_input_is_one_line_of_the_command(cli, tmp_path):
    (tmp_path / "file").write_text("")
    message = error_line(cli("file/output"))
    assert str(tmp_path / "file" / "output") in message and "cannot be written" in message
    # boxes of 66 LR voxels take crops of 528 pixels of the sample's 512
    message = error_line(cli("absent", boxes=[66, 4, 2], lr_image=write_lr(tmp_path / "large.tif", 80)))
    assert "(512, 512) pixels, but the critics' crops take 528" in message
    assert not (tmp_path / "absent").exists()


# --- Inside this process -------------------------------------------------------------------------------------------------------------


def write_lr(path: Path, edge: int = 20, phases: int = 4, bodies: int = 1) -> str:
    """Cubes of `bodies` voxels a side."""
    labels = np.random.default_rng(0).integers(0, phases, (edge // bodies,) * 3, dtype=np.uint8)
    labels = labels.repeat(bodies, 0).repeat(bodies, 1).repeat(bodies, 2)
    tifffile.imwrite(path, labels, imagej=True, resolution=(1 / 4, 1 / 4), metadata={"axes": "ZYX", "unit": "um", "spacing": 4.0})
    return str(path)


def write_hr(path: Path, values: np.ndarray, pixel_size: float = 0.5) -> str:
    metadata = {"axes": "ZYX", "unit": "um", "spacing": 1.0}
    tifffile.imwrite(path, values.astype(np.uint8), imagej=True, resolution=(1 / pixel_size,) * 2, metadata=metadata)
    return str(path)


@pytest.fixture
def rock(tmp_path) -> dict[str, str]:
    """A volume of 20^3 voxels of 4 µm and two images of 64^2 pixels of 0.5 µm, four phases."""
    hr = np.random.default_rng(1).integers(0, 4, (2, 64, 64))
    return {"lr_image": write_lr(tmp_path / "lr.tif"), "hr_images": write_hr(tmp_path / "hr.tif", hr)}


@pytest.fixture
def parse(bundle_root, tmp_path, monkeypatch) -> Callable[..., ConfigParser]:
    """A tiny training from train.yaml, override files and keys."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # `training` sets its own

    def build(*files: str, **overrides) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config([str(bundle_root / "configs" / name) for name in ("train.yaml", *files)])
        parser.update({"output_dir": str(tmp_path / "output"), "device": "cpu"} | overrides)
        return parser

    return build


def train(parser: ConfigParser):
    parser.get_parsed_content("training")
    return parser.get_parsed_content("train#trainer")


def weights(trainer) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in trainer.ema.module.state_dict().values()])


def test_the_seed_decides_the_weights(parse, rock, tmp_path):
    found = []
    for n, seed in enumerate([5, 5, 6]):
        torch.manual_seed(n)
        found.append(weights(train(parse(**TINY, **rock, seed=seed, output_dir=str(tmp_path / str(n))))))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_training_is_not_begun_where_another_lies(parse, rock, tmp_path):
    """Said before the files are read, and nothing is touched; a folder whose checkpoint was moved away is taken."""
    path = tmp_path / "output" / "checkpoint.pt"
    train(parse(**TINY, **rock))
    before = {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()}
    for change in ({"resume": "false"}, {"lr_image": str(tmp_path / "absent.tif")}, {"start_from": str(path)}):
        message = failure(parse(**TINY | rock | change))
        assert message == f"{path}: holds a training of 1 epochs; --resume true goes on, or choose another output_dir, or move it away"
    assert {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()} == before
    path.rename(tmp_path / "moved.pt")
    assert train(parse(**TINY, **rock)).state.iteration == 3 and path.exists()


def test_it_writes_what_the_config_says(parse, rock, tmp_path):
    train(parse(**TINY | rock | {"max_epochs": 2, "snapshots": 2}))
    names = sorted(os.listdir(tmp_path / "output"))
    assert names == ["checkpoint.pt", "model.json", "model.pt", "model_0002.json", "model_0002.pt", "tensorboard"]
    assert (tmp_path / "output" / "model_0002.json").read_bytes() == (tmp_path / "output" / "model.json").read_bytes()  # both of the last epoch
    assert same(load(tmp_path / "output" / "model_0002.pt"), load(tmp_path / "output" / "model.pt"))  # phases and all
    record = json.loads((tmp_path / "output" / "model.json").read_text())
    assert load(tmp_path / "output" / "model.pt")["lr_voxel_size"] == record["settings"]["lr_voxel_size"] == [4.0] * 3
    (log,) = os.listdir(tmp_path / "output" / "tensorboard")
    assert log.startswith("events.out.tfevents")


@pytest.mark.parametrize("critics", [False, True])
@pytest.mark.parametrize("scale_factor", [2, 4])
def test_other_scale_factors(parse, rock, tmp_path, scale_factor, critics):
    levels = {2: 1, 4: 2}[scale_factor]
    overrides = {"network_def#channels": [8] * (levels + 1), "boxes": [6, 4][:levels], "hr_voxel_size": 4 / scale_factor}
    files, tiny = (["critics.yaml"], CRITICS) if critics else ([], TINY)
    trainer = train(parse(*files, **tiny | rock | overrides, scale_factor=scale_factor))
    scales = [2 ** (k + 1) for k in range(levels)]
    assert sorted(trainer.critics) == [f"hr_{scale}x" for scale in scales if critics]
    assert [name for name in trainer.state.output if name.startswith("patches")] == [f"patches_hr_{scale}x" for scale in scales if not critics]
    assert load(tmp_path / "output" / "model.pt")["scale_factor"] == scale_factor
    sizes = [scale_factor * edge for edge in [6, 4][:levels]]
    # for each of the three planes: of the two slices a critic has four real crops each to choose from
    number = 3 * (4 * 2 if critics else 1)
    assert [tuple(crops.shape) for crops in trainer.state.batch["hr"]] == [(1, number, 4, size, size) for size in sizes]


@pytest.mark.parametrize("files", [[], ["critics.yaml"]], ids=["patches", "critics"])
@pytest.mark.parametrize("scale_factor", [2, 4, 8, 16, 32])
def test_the_default_networks_have_the_levels_of_the_scale_factor(parse, scale_factor, files):
    parser = parse(*files, scale_factor=scale_factor)
    network = parser.get_parsed_content("network_def")
    assert network.scale_factor == scale_factor and len(parser.get_parsed_content("boxes")) == len(network.levels)
    network.nested_boxes(parser.get_parsed_content("patch"), parser.get_parsed_content("boxes"))  # they fit


def test_sixteen_times_grows_from_eight_times_whose_levels_stay(parse, rock, tmp_path):
    """8x is trained, a fourth level is added to it, which alone learns; the result makes 16x."""
    train(parse(**TINY | rock | {"boxes": [8, 6, 4]}))  # 32 of the 64 pixels of an image
    os.replace(tmp_path / "output" / "model.pt", tmp_path / "8x.pt")
    images = write_hr(tmp_path / "finer.tif", np.random.default_rng(1).integers(0, 4, (2, 128, 128)), 0.25)
    finer = TINY | rock | {"hr_images": images, "network_def#channels": [8] * 5, "network_def#grain_radius": 1, "boxes": [8, 6, 4, 2], "checkpointing": "true"}
    old = load(tmp_path / "8x.pt")["model"]
    trainer = train(parse("16x.yaml", **finer | {"start_from": str(tmp_path / "8x.pt"), "frozen_levels": 3, "output_dir": str(tmp_path / "finer")}))
    assert json.loads((tmp_path / "finer" / "model.json").read_text())["started_from"]["file"] == "8x.pt"
    assert trainer.network.checkpointing and trainer.network.scale_factor == 16 and "patches_hr_16x" in trainer.state.output
    weights = trainer.network.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in old.items() if key.startswith(("trunk", "levels")))
    torch.manual_seed(0)
    model = load(tmp_path / "finer" / "model.pt")
    assert model["scale_factor"] == 16 and model["model"]["levels.3.conv1.weight"].shape == (8, 8, 3, 3, 3)
    start = parse("16x.yaml", **finer).get_parsed_content("network_def").state_dict()
    assert not torch.equal(weights["levels.3.conv2.weight"], start["levels.3.conv2.weight"])


@pytest.mark.parametrize(("file", "factor", "radius"), [("16x.yaml", 16, 8), ("32x.yaml", 32, 4)])
def test_finer_configs_fit_training_and_inference(parse, bundle_root, tmp_path, file, factor, radius):
    """A model of the one has the entries of the other; smooth noise reaches as many µm as at 8x."""
    network = parse(file).get_parsed_content("network_def")
    assert network.scale_factor == factor and network.hidden.radius == radius == 16 * 8 / factor and network.reach == 2.5 * radius
    save_model(tmp_path / "model.pt", network, ["pore", "quartz", "feldspar", "clay"], ["pore", "quartz", "feldspar", "clay"])
    parser = ConfigParser()
    parser.read_config([str(bundle_root / "configs" / name) for name in ("inference.yaml", file)])
    parser["model_file"], parser["device"] = str(tmp_path / "model.pt"), "cpu"
    assert parser.get_parsed_content("network").scale_factor == factor and parser.get_parsed_content("shard") * factor == 256


def test_hr_with_a_phase_that_the_lr_does_not_know(parse, rock, tmp_path):
    two = {"lr_image": write_lr(tmp_path / "two.tif", phases=2), "lr_phases": ["pore", "quartz"]}
    trainer = train(parse(**TINY | rock | two))
    assert trainer.state.batch["image"].shape[1] == 3  # two labels and noise
    assert trainer.state.batch["hr"][0].shape[2] == trainer.network.out_channels == 4
    assert trainer.consistency.cost.shape == (2, 2)
    model = load(tmp_path / "output" / "model.pt")
    assert (model["lr_phases"], len(model["phases"])) == (["pore", "quartz"], 4)


def test_a_phase_that_no_image_holds_is_told_of(parse, rock, tmp_path, caplog):
    phases = ["pore", "quartz", "feldspar", "clay", "pyrite"]
    train(parse(**TINY | rock | {"phases": phases}))
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING" and "no HR image holds" in record.getMessage()]
    assert told == ["no HR image holds pyrite: training cannot learn what it looks like"]
    caplog.clear()
    train(parse(**TINY | rock | {"output_dir": str(tmp_path / "four")}))
    assert "no HR image holds" not in caplog.text


@pytest.mark.parametrize(
    ("key", "value", "attribute"),
    [
        ("adversarial_weight", 0.3, "adversarial_weight"),
        ("consistency_weight", 7.0, "consistency_weight"),
        ("n_critic", 4, "n_critic"),
        ("warmup_iterations", 9, "warmup_iterations"),
        ("slices_per_plane", 3, "slices_per_plane"),
        ("border", 1, "border"),
        ("separate_planes", True, "separate_planes"),
        ("hard_labels", True, "hard_labels"),
        ("patch_weight", 0.7, "patch_weight"),
        ("feedback_weight", 0.9, "feedback_weight"),
        ("decay", 0.25, "decay"),
        ("buffer_volumes", 5, "buffer.steps"),
        ("buffer_slices", 7, "buffer.slices"),
        ("tolerance", 0.21, "consistency.tolerance"),
        ("amp", True, "bfloat16"),
        ("max_grad_norm", 0.5, "max_grad_norm"),
        ("seed", 12, "seed"),
        ("max_epochs", 6, "state.max_epochs"),
        ("epoch_length", 8, "state.epoch_length"),
        ("batch_size", 2, "data_loader.batch_size"),
        ("noise_std", 0.5, "network.noise_std"),
        ("g_learning_rate", 0.02, "g_optimizer.defaults.lr"),
        ("d_learning_rate", 0.03, "d_optimizer.defaults.lr"),
        ("betas", [0.1, 0.2], "g_optimizer.defaults.betas"),
        ("betas", [0.1, 0.2], "d_optimizer.defaults.betas"),
    ],
)
def test_keys_reach_the_trainer(parse, rock, key, value, attribute):
    files, tiny = (["critics.yaml"], CRITICS) if attribute.startswith("d_optimizer") else ([], TINY)
    found = parse(*files, **tiny | rock | {key: value}).get_parsed_content("train#trainer")
    for name in attribute.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert (list(found) if isinstance(value, list) else found) == value


@pytest.mark.parametrize(("bodies", "lone", "blur"), [(1, True, 0.0), (1, "false", 1.0), (1, None, 0.0), (5, None, 1.0), (5, True, 0.0)])
def test_lone_voxels_reach_the_generator(parse, rock, tmp_path, bodies, lone, blur):
    """Scans with bodies of 1 voxel, as the images have at its voxel size, and of 5."""
    write_lr(tmp_path / "lr.tif", bodies=bodies)
    network = parse(**TINY | rock | {"lone_voxels": lone}).get_parsed_content("train#trainer").network
    assert float(network.label_blur) == float(network.levels[0].blur) == blur


@pytest.mark.parametrize("option", ["label_blur", "blur"])
def test_a_network_that_is_said_not_to_blur_does_not(parse, rock, tmp_path, option):
    write_lr(tmp_path / "lr.tif", bodies=5)
    network = parse(**TINY | rock | {f"network_def#{option}": 0.0}).get_parsed_content("train#trainer").network
    assert (float(network.label_blur), float(network.levels[0].blur)) == ((0.0, 1.0) if option == "label_blur" else (1.0, 0.0))


def test_ema_decay_reaches_the_average(parse, rock):
    trainer = parse(**TINY | rock | {"ema_decay": 0.125}).get_parsed_content("train#trainer")
    for value in (0.0, 1.0):  # the first is the start of the average
        for parameter in trainer.network.parameters():
            parameter.data.fill_(value)
        trainer.ema.update_parameters(trainer.network)
    assert {float(p.unique()) for p in trainer.ema.module.parameters()} == {0.875}


def test_mse_only_has_no_critic(parse, rock):
    trainer = train(parse("mse_only.yaml", **BARE | rock))
    assert len(trainer.critics) == 0 and trainer.d_optimizer is None and isinstance(trainer.consistency, NearestConsistency)
    assert trainer.state.output["generator"] == pytest.approx(trainer.consistency_weight * trainer.state.output["consistency"])


def test_the_default_trains_without_critics(parse, rock):
    """On the distance of patches at every scale and the feedback at the finest, both from the labels of the images."""
    trainer = train(parse(**TINY | rock))
    assert len(trainer.critics) == 0 and trainer.d_optimizer is None and not trainer.hard_labels
    distances = [value for name, value in trainer.state.output.items() if name.startswith("patches_")]
    assert len(distances) == 3 and min(distances) > 0 and trainer.state.output["feedback_hr"] != 0
    assert trainer.state.metrics["statistics_error_hr"] > 0
    lr, hr = (tifffile.imread(rock[key]) for key in ("lr_image", "hr_images"))
    assert trainer.feedback.lr_fractions.sum() == pytest.approx(1)
    for teacher in (trainer.patches, trainer.feedback):
        assert np.array_equal(np.stack(teacher.images["hr"]), hr)


@pytest.fixture
def hiding_rock(rock, tmp_path) -> dict[str, str]:
    """The rock, with more feldspar (2) in the images than in the volume."""
    hr = np.random.default_rng(2).choice(4, p=[0.25, 0.2, 0.32, 0.23], size=(2, 64, 64))
    return rock | {"hr_images": write_hr(tmp_path / "more.tif", hr)}


def fractions_of(path: str) -> np.ndarray:
    return np.bincount(tifffile.imread(path).ravel(), minlength=4) / tifffile.imread(path).size


def test_what_the_lr_hides_returns_in_training_and_inference(parse, hiding_rock, tmp_path, bundle_root):
    """As much feldspar as the images hold more comes out of quartz: the losses go by it, model.json notes it, model.pt holds it."""
    trainer = train(parse(**TINY | hiding_rock | {"rims": None}))
    lr, hr = (fractions_of(hiding_rock[key]) for key in ("lr_image", "hr_images"))
    missing = hr[2] - lr[2]
    assert 0.05 < missing < 0.4 * lr[1]
    record = json.loads((tmp_path / "output" / "model.json").read_text())
    assert record["data"]["image"][0]["labels_sha256"] == LabelSource(hiding_rock["lr_image"], 4).checksum
    noted = record["settings"]["hidden"]
    expected = np.zeros((4, 4))
    expected[1, 2] = missing / lr[1]
    np.testing.assert_allclose(noted, expected, rtol=1e-6)
    assert trainer.feedback.lr_fractions.tolist() == pytest.approx([lr[0], lr[1] - missing, hr[2], lr[3]])
    for network in (trainer.network, trainer.ema.module):  # what the volume shows of it counts, too
        assert network.hidden.threshold[[0, 2, 3]].tolist() == [1e4] * 3 and network.hidden.threshold[1] < 1e3
        assert network.hidden.evidence[1].min() > 0 and not network.hidden.evidence[[0, 2, 3]].any()
    # the config of the inference says nothing of it
    parser = ConfigParser()
    parser.read_config(str(bundle_root / "configs" / "inference.yaml"))
    architecture = {key: value for key, value in TINY.items() if key.startswith("network_def#")}
    parser.update(architecture | {"model_file": str(tmp_path / "output" / "model.pt"), "device": "cpu"})
    inferring = parser.get_parsed_content("network")
    labels = torch.from_numpy(tifffile.imread(hiding_rock["lr_image"])).long()
    onehot = F.one_hot(labels, 4).movedim(-1, 0)[None].float()
    turned = []
    for seed in range(8):
        image = torch.cat([onehot, torch.randn(1, 1, *labels.shape, generator=torch.Generator().manual_seed(seed))], 1)
        found = inferring.corrected(image)
        assert torch.equal(found, trainer.network.corrected(image))
        inner = (0, slice(None), *[slice(2, -2)] * 3)
        turned.append((found[inner][2] - onehot[inner][2]).sum() / onehot[inner][1].sum())
    assert float(np.mean(turned)) == pytest.approx(missing / lr[1], abs=0.03)


@pytest.mark.parametrize("hidden", [None, {"clay": "pore"}, {"mica": "feldspar"}])
def test_what_is_not_said_to_hide_does_not_return(parse, hiding_rock, tmp_path, hidden):
    """Null, and other labels than quartz; of the pore the images hold as much as the volume, or nearly."""
    file = tmp_path / "hidden.yaml"
    file.write_text(f"hidden: {json.dumps(hidden)}\nrims: null\n")
    trainer = train(parse(str(file), **TINY | hiding_rock))
    noted = np.array(json.loads((tmp_path / "output" / "model.json").read_text())["settings"]["hidden"])
    returned = noted[3, 0] if hidden == {"clay": "pore"} else 0
    assert noted.shape == (4, 4) and noted.sum() == returned < 0.1
    lr = fractions_of(hiding_rock["lr_image"])
    assert trainer.feedback.lr_fractions.tolist() == pytest.approx([lr[0] + returned * lr[3], lr[1], lr[2], (1 - returned) * lr[3]])
    if not returned:
        image = torch.as_tensor(trainer.state.batch["image"])
        assert torch.equal(trainer.network.corrected(image), image[:, :4])


def test_nothing_returns_where_there_is_no_noise(parse, hiding_rock):
    """The field that decides where would be zero: nothing turns, so the feedback must not count on it."""
    trainer = train(parse("zero_noise.yaml", **TINY | hiding_rock | {"rims": None}))
    assert trainer.feedback.lr_fractions.tolist() == pytest.approx(fractions_of(hiding_rock["lr_image"]))
    assert not trainer.network.hidden.target.any()


def test_rims_turn_in_training_with_and_without_noise(parse, rock, tmp_path):
    """Of a volume with a quarter of each label the images say that .05 of clay is too much and .1 of pore is missing."""
    hr = np.random.default_rng(2).choice(4, p=[0.35, 0.25, 0.2, 0.2], size=(2, 64, 64))
    rims = rock | {"hr_images": write_hr(tmp_path / "less.tif", hr)}
    lr, hr = (fractions_of(rims[key]) for key in ("lr_image", "hr_images"))
    turned = min(hr[0] - lr[0], lr[3] - hr[3])
    assert 0.02 < turned < 0.08
    for i, (laid, share) in enumerate((([], 1.0), (["zero_noise.yaml"], 1.0), ([], 0.5))):
        trainer = train(parse(*laid, **TINY | rims | {"output_dir": str(tmp_path / str(i)), "rim_share": share}))
        record = json.loads((tmp_path / str(i) / "model.json").read_text())["settings"]
        assert record["rims"] == {"clay": "pore"} and record["rim_share"] == share and record["hidden"][3] == [pytest.approx(share * turned / lr[3]), 0, 0, 0]
        assert trainer.feedback.lr_fractions.tolist() == pytest.approx([lr[0] + share * turned, lr[1], lr[2], lr[3] - share * turned])
        for network in (trainer.network, trainer.ema.module):
            assert network.hidden.rim.tolist() == [0, 0, 0, 1] and network.hidden.target[3].tolist() == [1, 0, 0, 0]


def test_the_published_generator_cannot_bring_back_what_hides(parse, hiding_rock, tmp_path):
    message = failure(parse("paper.yaml", **hiding_rock | {"network_def#width": 16, "boxes": [10], "hidden": {"quartz": "feldspar"}}))
    assert message == "hidden: PaperGenerator cannot bring phases back; set hidden and rims to {}"
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("symmetries", [4, 8])
def test_patches_of_the_images_turn_as_crops_do(parse, rock, symmetries):
    assert len(parse(**TINY | rock | {"symmetries": symmetries}).get_parsed_content("patches").turns) == symmetries


def test_critics_teach_in_place_of_patches(parse, rock):
    trainer = train(parse("critics.yaml", **CRITICS | rock))
    assert sorted(trainer.critics) == ["hr_2x", "hr_4x", "hr_8x"] and trainer.patches is trainer.feedback is None
    assert isinstance(trainer.adversarial, WassersteinLoss) and trainer.hard_labels and trainer.decay == 0
    assert (trainer.n_critic, trainer.match_label, trainer.boxes) == (2, 0, [6, 4, 2])
    assert {f"critic_hr_{scale}x" for scale in (2, 4, 8)} <= set(trainer.state.output)
    assert not any(name.startswith(("patches", "feedback")) for name in trainer.state.output)


def test_patches_and_critics_teach_together(parse, rock):
    trainer = train(parse("patches_and_critics.yaml", **TINY | CRITICS | rock | {"epoch_length": 5, "warmup_iterations": 2}))
    assert sorted(trainer.critics) == ["hr_2x", "hr_4x", "hr_8x"]
    assert isinstance(trainer.patches, SlicedWasserstein) and isinstance(trainer.feedback, StatisticsFeedback)
    assert trainer.hard_labels and (trainer.n_critic, trainer.match_label, trainer.adversarial_weight) == (1, 0, 0.3)
    for scale in (2, 4, 8):
        assert {f"critic_hr_{scale}x", f"adversarial_hr_{scale}x", f"patches_hr_{scale}x"} <= set(trainer.state.output)


def test_what_may_be_where_a_phase_is_absent_is_measured_in_the_images(parse, rock, tmp_path):
    """Images of pore whose row i of blocks holds i of 64 pixels of clay: within it are the rows 1 to 14. Other phases have no inside. Where clay
    mixed with another passes for pore the images say nothing."""
    hr = np.zeros((2, 16, 8, 128), np.uint8)
    for i in range(16):
        for pixel in range(i):
            hr[:, i, pixel // 8, pixel % 8 :: 8] = 3  # in each block of the row
    rock = rock | {"hr_images": write_hr(tmp_path / "clay.tif", hr.reshape(2, 128, 128))}
    parser, mixed = parse(**TINY | rock), parse(**TINY | rock | {"rims": {"pore": "clay"}})
    phases = parser.get_parsed_content("consistency").absent
    middles = [1 + int(14 * (k + 0.5) / 1000) for k in range(1000)]
    assert phases.allowed[0, 3].tolist() == [held / 64 for held in middles] and not phases.allowed[0, 1:3].any()
    tolerance = parser.get_parsed_content("tolerance")
    assert (phases.allowed[1:] == tolerance).all()
    assert (mixed.get_parsed_content("consistency").absent.allowed[0, 3] == tolerance).all()
    assert parse(**TINY | rock | {"consistency#absent": None}).get_parsed_content("consistency").absent is None


def test_the_absence_of_a_phase_counts_where_what_is_hidden_returns(parse, hiding_rock):
    """The scan has lost feldspar to quartz; where it is not told so, feldspar may be anywhere."""
    known = [parse(**TINY | hiding_rock | other).get_parsed_content("consistency").absent.known for other in ({}, {"hidden": {}})]
    assert known[0][2] and not known[1][2]


@pytest.mark.parametrize("hidden", [{}, {"quartz": "feldspar"}])
def test_what_the_scan_has_lost_may_be_anywhere_where_planes_have_their_own_images(parse, hiding_rock, hidden):
    """Feldspar, unless it returns from hiding; with one set of images its absence counts among alike neighbours."""
    for planes in (False, True):
        images = {plane: hiding_rock["hr_images"] for plane in ("xy", "xz", "yz")} if planes else hiding_rock["hr_images"]
        settings = TINY | hiding_rock | {"hr_images": images, "hidden": hidden}
        assert bool(parse(**settings).get_parsed_content("consistency").absent.counts[2]) == (bool(hidden) or not planes)


def test_what_is_counted_of_absent_phases_goes_on_where_it_was(parse, rock, tmp_path):
    """A scan of two large grains, so that much lies within them; a resume has the counts and the weights of the uninterrupted training."""
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[:, :, 10:] = 1
    tifffile.imwrite(rock["lr_image"], labels, imagej=True, resolution=(1 / 4, 1 / 4), metadata={"axes": "ZYX", "unit": "um", "spacing": 4.0})
    rock |= {"hr_images": write_hr(tmp_path / "grains.tif", np.kron(np.arange(4).reshape(1, 2, 2), np.ones((1, 96, 96))))}

    def trained(name: str, **settings):
        settings = {"decay": 0.0, "consistency#absent#steps": 4, "output_dir": str(tmp_path / name)} | settings
        return train(parse(**TINY | rock | settings))

    whole, _ = trained("whole", max_epochs=2), trained("broken", max_epochs=1)
    resumed = trained("broken", max_epochs=2, resume=True)
    assert sorted(whole.consistency.absent.rings) == ["2x", "4x", "8x"]
    for scale, ring in whole.consistency.absent.rings.items():
        assert len(ring) == 4 and sum(float(step.sum()) for step, in ring) > 0, scale  # a box of two voxels, too: what lies around is known
        assert all(torch.equal(*pair) for pair in zip(*(torch.stack([s for s, in of.consistency.absent.rings[scale]]) for of in (whole, resumed))))
    assert torch.equal(weights(resumed), weights(whole))


def test_the_record_says_how_the_model_was_trained(parse, rock, tmp_path):
    """What README calls keys of the rock, and what the trials of docs/trials.md changed: without them nobody can train the model again."""
    given = {"seen": ["pore"], "noise_std": 0.5, "patches#borders": 0.25, "feedback#fractions": 7.0, "lr_region": [[0, 20], [1, 20], [0, 20]]}
    mixed = {"clay": "pore", "feldspar": "pore"}
    train(parse(**TINY | rock | given | {"consistency#absent#mixed": mixed, "separate_planes": True}))
    found = json.loads((tmp_path / "output" / "model.json").read_text())["settings"]
    assert {"phases", "scale_factor", "symmetries", "hidden", "rims", "costs", "tolerance", "grain_radius", "frozen_levels", "start_phases"} <= set(found)
    assert found["seen"] == ["pore"] and found["noise_std"] == 0.5 and found["lr_region"] == given["lr_region"]
    assert found["patches"] == [3, 1024, 0.25] and found["feedback"][0] == 7.0
    assert found["absent"] == "AbsentPhases" and found["mixed"] == mixed and found["separate_planes"] is True


def test_zero_noise_is_without_noise(parse, rock):
    trainer = train(parse("zero_noise.yaml", **TINY | rock))
    assert (trainer.state.batch["image"][:, -1] == 0).all() and (trainer.state.batch["image"][:, :-1].sum(1) == 1).all()
    image = torch.as_tensor(trainer.state.batch["image"])[..., :4, :4, :4]
    with torch.no_grad():  # the finer levels draw none either
        assert torch.equal(trainer.network(image), trainer.network(image))


def test_the_default_has_noise(parse, rock):
    trainer = train(parse(**TINY | rock))
    assert 0.9 < float(trainer.state.batch["image"][:, -1].std()) < 1.1
    image = torch.as_tensor(trainer.state.batch["image"])[..., :4, :4, :4]
    for level in trainer.network.levels:
        torch.nn.init.normal_(level.head.weight)
    with torch.no_grad():
        assert not torch.equal(trainer.network(image), trainer.network(image))


def test_relativistic(parse, rock):
    trainer = train(parse("critics.yaml", "relativistic.yaml", **CRITICS | rock))
    assert isinstance(trainer.adversarial, RelativisticLoss) and (trainer.adversarial.r1, trainer.adversarial.r2) == (1.0, 1.0)
    assert trainer.n_critic == 1 and np.isfinite(list(trainer.state.output.values())).all()


def test_confusion_learns_how_the_scan_labels_and_goes_on_where_it_was(parse, rock, tmp_path, caplog):
    def trained(name: str, **settings):
        settings = TINY | rock | {"decay": 0.0, "output_dir": str(tmp_path / name)} | settings
        return train(parse("confusion.yaml", **settings))

    whole = trained("whole", max_epochs=2)
    assert isinstance(whole.consistency, ConfusionConsistency) and whole.consistency.scale_factor == whole.network.scale_factor
    assert not torch.equal(whole.consistency.table, whole.consistency.start)
    with caplog.at_level("INFO"):
        trained("broken", max_epochs=1)
    assert "the scan labels pore pore" in caplog.text
    resumed = trained("broken", max_epochs=2, resume=True)
    assert torch.equal(resumed.consistency.table, whole.consistency.table)
    assert torch.equal(weights(resumed), weights(whole))


@pytest.fixture
def planes(rock, tmp_path) -> dict[str, str]:
    """HR images of one phase a plane, rows half as high as columns are wide."""
    files = {plane: write_hr(tmp_path / f"{plane}.tif", np.full((1, 48, 96), phase)) for phase, plane in enumerate(["xy", "xz", "yz"])}
    return {"lr_image": rock["lr_image"]} | {f"hr_images#{plane}": file for plane, file in files.items()}


def test_anisotropic_compares_each_plane_with_its_images(parse, planes, monkeypatch):
    seen: dict[tuple[str, int], set[int]] = {}

    def spied(call):
        def spy(teacher, group, *given):
            scale = given[0] if isinstance(given[0], int) else 0  # the feedback has the finest alone
            seen[group, scale] = {int(label) for image in teacher.images[group] for label in np.unique(image)}
            return call(teacher, group, *given)

        return spy

    for teacher in (SlicedWasserstein, StatisticsFeedback):
        monkeypatch.setattr(teacher, "__call__", spied(teacher.__call__))
    trainer = train(parse("anisotropic.yaml", **TINY | planes))
    assert seen == {(f"hr_{plane}", scale): {phase} for phase, plane in enumerate(["xy", "xz", "yz"]) for scale in (0, 2, 4, 8)}
    assert np.isfinite(list(trainer.state.output.values())).all() and len(trainer.patches.turns) == 4


def test_anisotropic_shows_each_critic_its_plane_and_images(parse, planes):
    """Each critic's crops have the phase of its plane."""
    trainer = parse("critics.yaml", "anisotropic.yaml", **CRITICS | planes)
    torch.manual_seed(0)
    trainer = trainer.get_parsed_content("train#trainer")
    assert sorted(trainer.critics) == sorted(f"hr_{plane}_{scale}x" for plane in ("xy", "xz", "yz") for scale in (2, 4, 8))
    assert trainer.planes == {f"hr_{plane}": [plane] for plane in ("xy", "xz", "yz")}
    seen: dict[str, set[int]] = {}
    names = {id(critic): name for name, critic in trainer.critics.items()}
    loss = trainer.adversarial.critic_loss

    def spy(critic, real, fake):
        seen.setdefault(names[id(critic)], set()).update(real.argmax(1).unique().tolist())
        return loss(critic, real, fake)

    trainer.adversarial.critic_loss = spy
    trainer.run()
    assert seen == {f"hr_{plane}_{scale}x": {phase} for phase, plane in enumerate(["xy", "xz", "yz"]) for scale in (2, 4, 8)}


def test_paper_has_the_published_values(parse, sample_paths):
    """The facts of the published code, written down by hand."""
    parser = parse("paper.yaml", lr_image=str(sample_paths["lr"]), hr_images=str(sample_paths["hr"]))
    trainer = parser.get_parsed_content("train#trainer")
    assert sum(p.numel() for p in trainer.network.parameters()) == 20_146_980
    assert parser.get_parsed_content("patch") == 32 and trainer.network.scale_factor == 8  # 32^3 -> 256^3
    for optimizer in (trainer.g_optimizer, trainer.d_optimizer):
        assert type(optimizer) is torch.optim.Adam
        assert (optimizer.defaults["lr"], tuple(optimizer.defaults["betas"])) == (1e-4, (0.5, 0.999))
    assert type(trainer.adversarial) is WassersteinLoss and trainer.adversarial.penalty == 10 and not trainer.adversarial.rms
    assert isinstance(trainer.consistency, NearestConsistency)  # contains classes / 2
    assert (trainer.consistency_weight, trainer.adversarial_weight) == (300, 3)  # 3 x 100; the trainer takes the mean over three planes
    assert not trainer.bfloat16 and trainer.separate_planes and not trainer.hard_labels and trainer.buffer is None
    assert (trainer.n_critic, trainer.warmup_iterations, trainer.max_grad_norm) == (5, 0, None)
    assert (trainer.border, trainer.slices_per_plane, trainer.boxes) == (8, None, [32])
    assert list(trainer.critics) == ["hr_8x"]  # one for three planes
    assert trainer.patches is None and trainer.feedback is None and trainer.decay == 0
    convolutions = [layer for layer in trainer.critics["hr_8x"].layers if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [16, 32, 64, 128, 256, 512, 1]
    assert trainer.data_loader.batch_size == 2
    assert (trainer.state.max_epochs, trainer.state.epoch_length) == (500, 10000 // 32)
    item = trainer.data_loader.dataset[0]
    assert tuple(item["image"].shape) == (5, 32, 32, 32)
    assert [tuple(crops.shape) for crops in item["hr"]] == [(128 // 2 * 3, 4, 240, 240)]  # 128 a plane and batch of 2
    trainer.ema.update_parameters(trainer.network)
    torch.nn.init.ones_(trainer.network.stem[0].weight)
    trainer.ema.update_parameters(trainer.network)
    assert (trainer.ema.module.stem[0].weight == 1).all()  # no averaging


def test_paper_trains_and_its_model_fits_its_inference(parse, rock, tmp_path, bundle_root):
    """Narrow and small: 10^3 -> 80^3, of which slices of 64^2 are judged, the least that the published critic takes."""
    small = {
        "network_def#width": 16, "critic_def#last_kernel": 1, "boxes": [10], "crops_per_plane": 2, "epoch_length": 2,
        "max_epochs": 1, "n_critic": 2,
    }  # fmt: skip
    trainer = train(parse("paper.yaml", **small | rock))
    output = trainer.state.output
    assert output["generator"] == pytest.approx(300 * output["consistency"] + 3 * output["adversarial_hr_8x"], rel=1e-4)
    assert [tuple(crops.shape) for crops in trainer.state.batch["hr"]] == [(2, 6, 4, 64, 64)]
    parser = ConfigParser()
    parser.read_config([str(bundle_root / "configs" / name) for name in ("inference.yaml", "paper_network.yaml")])
    parser["network_def#width"] = 16
    parser.get_parsed_content("network_def").load_state_dict(load(tmp_path / "output" / "model.pt")["model"])


def test_a_volume_smaller_than_a_patch_but_not_than_its_core_trains(parse, rock, tmp_path):
    """Patches of 22 LR voxels reach beyond the border, cores of 6 do not."""
    parser = parse(**TINY | rock | {"lr_image": write_lr(tmp_path / "small.tif", edge=7)})
    assert parser.get_parsed_content("patch") == 22
    assert train(parser).state.batch["image"].shape[2:] == (22, 22, 22)


def test_resume_with_another_network_or_epoch_length(parse, rock):
    train(parse(**TINY | rock))
    more = TINY | rock | {"max_epochs": 2, "resume": True}
    for change, words in [
        ({"network_def#channels": [8, 8, 8, 4]}, "another configuration"),
        ({"epoch_length": 4}, "had epochs of 3 iterations, now 4"),
        ({"buffer_volumes": 3}, None),  # a shorter memory goes on
    ]:
        if words:
            assert words in failure(parse(**more | change))
        else:
            assert train(parse(**more | change)).state.iteration == 6


def test_resume_with_other_images_that_hide_more(parse, hiding_rock, rock):
    """The weights would keep the shares of the first images, the losses go by those of the second."""
    train(parse(**TINY | hiding_rock))
    for change in ({"hr_images": rock["hr_images"]}, {"lr_region": [[0, 20], [0, 20], [1, 20]]}):
        message = failure(parse(**TINY | hiding_rock | change | {"max_epochs": 2, "resume": True}))
        assert "checkpoint.pt: the amounts of the phases in the scan or in the images were others (another file or region?)" in message
        assert message.endswith("or choose another output_dir") and "[" not in message
    assert train(parse(**TINY | hiding_rock | {"max_epochs": 2, "resume": True})).state.iteration == 6


def test_the_scan_is_read_as_it_is_and_no_further_than_its_region(parse, rock, tmp_path):
    """As the inference takes it: float32 would make one of two labels beyond 2^24, and what lies outside the region need be no label."""
    labels = np.random.default_rng(0).integers(0, 4, (20, 20, 20))
    values = (labels + 2**24).astype(np.int32)
    values[15:] = 7
    tifffile.imwrite(tmp_path / "wide.tif", values)
    settings = {"lr_image": str(tmp_path / "wide.tif"), "lr_voxel_size": 4.0, "lr_labels": {2**24 + i: i for i in range(4)}}
    parser = parse(**TINY | rock | settings | {"lr_region": [[2, 15], [0, 20], [0, 20]]})
    seen = parser.get_parsed_content("train#dataset").data[0]["image"]
    assert seen.dtype == torch.uint8
    np.testing.assert_array_equal(seen[0].numpy(), labels[2:15])


def test_resume_with_other_tables_of_labels_is_told(parse, rock, tmp_path, caplog):
    """The files are the same, what the training sees of them is not."""
    train(parse(**TINY | rock | {"hr_labels": {0: 0, 1: 1, 2: 2, 3: 3}}))
    changed = {"lr_labels": {0: 0, 1: 2, 2: 1, 3: 3}, "hr_labels": {0: 0, 1: 2, 2: 1, 3: 3}, "hidden": {}, "rims": {}}
    caplog.clear()
    train(parse(**TINY | rock | changed | {"max_epochs": 2, "resume": True}))
    assert "resumed with other settings" in caplog.text
    assert "lr_labels None, now {'0': 0, '1': 2, '2': 1, '3': 3}" in caplog.text and "hr_labels {'0': 0, '1': 1, " in caplog.text
    assert json.loads((tmp_path / "output" / "model.json").read_text())["settings"]["lr_labels"] == {"0": 0, "1": 2, "2": 1, "3": 3}


def failure(parser: ConfigParser) -> str:
    """The line that the command would print."""
    with pytest.raises(Exception) as caught:
        train(parser)
    message = find_input_error(caught.value)
    assert message is not None, caught.value
    assert "\n" not in message and len(message) < 600
    return message



BAD_INPUT: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "images smaller than the crop": (lambda f: {"hr_images": write_hr(f / "s.tif", np.zeros((1, 64, 47)))}, r"s.tif.*(64, 47).*take 48"),
    "HR with fewer phases": (lambda f: {"phases": ["pore", "clay"], "lr_phases": ["pore", "clay", "x"]}, "2 phases, fewer than the 3"),
    "an LR label without a phase": (lambda f: {"phases": ["pore", "quartz"]}, "lr.tif.*values (2, 3) where 0, 1 are known"),
    "an HR label without a phase": (lambda f: {"hr_images": write_hr(f / "five.tif", np.full((1, 64, 64), 4))}, "five.tif.*values (4)"),
    "a table that lacks a value": (lambda f: {"lr_labels": {0: 0, 1: 1, 2: 2}}, "lr.tif.*values (3).*lr_labels"),
    "voxel ratio": (lambda f: {"hr_voxel_size": 1.0}, "4 times the HR pixels.*scale_factor is 8"),
    "voxel ratio of a file": (lambda f: {"hr_images": write_hr(f / "c.tif", np.zeros((1, 64, 64)), 0.6)}, "c.tif.*scale_factor is 8"),
    "missing LR": (lambda f: {"lr_image": str(f / "absent.tif")}, "absent.tif: no such file"),
    "missing HR": (lambda f: {"hr_images": [str(f / "hr.tif"), str(f / "absent.tif")]}, "absent.tif: no such file"),
    "LR smaller than a patch": (lambda f: {"boxes": [21, 4, 2]}, "lr.tif: (20, 20, 20) LR voxels.*patch takes 21"),
    "a region smaller than a patch": (lambda f: {"lr_region": [[0, 20], [0, 5], [0, 20]]}, "(20, 5, 20) LR voxels.*patch takes 6"),
    "a region outside": (lambda f: {"lr_region": [[0, 20], [0, 20], [0, 21]]}, "lr_region.*(20, 20, 20)"),
    "wrong planes": (lambda f: {"hr_images": {"xy": "a.tif", "zx": "b.tif"}}, "hr_images: has the planes xy, zx"),
    "planes that may be turned into each other": (
        lambda f: {"hr_images": {plane: str(f / "hr.tif") for plane in ("xy", "xz", "yz")}, "symmetries": 8}, "symmetries: 8.*set symmetries to 4",
    ),
    "a scale factor that is not the generator's": (
        lambda f: {"scale_factor": 6, "lr_voxel_size": 3.0, "hr_voxel_size": 0.5}, "network_def makes voxels 8 times finer, but scale_factor is 6",
    ),
    "slices smaller than a patch, their border cut away": (lambda f: {"boxes": [6, 4, 2], "border": 4, "patches#patch": 11}, "are slices of 10 pixels.*patch of 11"),
    "slices smaller than a patch": (lambda f: {"boxes": [6, 2, 1], "patches#patch": 13}, "boxes: 6 LR voxels at 2x are slices of 12 pixels.*patch of 13"),
    "more phases than fields of noise": (lambda f: {"phases": list("abcdefghijk"), "lr_phases": list("abcd"), "hidden": {}}, "phases: 11.*at most 10"),
    "a truncated file": (lambda f: {"lr_image": truncated(f)}, "cut.tif: .*again"),
}


def truncated(folder: Path) -> str:
    (folder / "cut.tif").write_bytes((folder / "lr.tif").read_bytes()[:3000])
    return str(folder / "cut.tif")


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_nothing_is_written(parse, rock, tmp_path, case):
    make, words = BAD_INPUT[case]
    message = failure(parse(**TINY | rock | make(tmp_path)))
    position = 0
    for part in words.split(".*"):
        position = message.find(part, position)
        assert position >= 0, message
    assert not (tmp_path / "output").exists()


def test_a_loss_that_is_no_number_leaves_the_last_checkpoint(parse, rock, tmp_path):
    parser = parse(**TINY | rock | {"max_epochs": 3, "g_learning_rate": 0.01})
    torch.manual_seed(0)
    trainer = parser.get_parsed_content("train#trainer")
    distance = trainer.patches
    trainer.patches = lambda *given: distance(*given) * (float("nan") if trainer.state.iteration == 5 else 1.0)
    with pytest.raises(InputError, match="iteration 5: the loss 'patches_hr_2x' became nan"):
        trainer.run()
    content = load(tmp_path / "output" / "checkpoint.pt")
    assert content["position"]["iteration"] == 3
    assert all(value.isfinite().all() for part in ("network", "ema") for value in content[part].values())
    resumed = train(parse(**TINY | rock | {"max_epochs": 3, "resume": True}))
    assert resumed.state.iteration == 9


# --- What is watched ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def long_images(tmp_path) -> dict[str, str]:
    """Two images of 160 x 64 pixels, of which a strip can be held out."""
    return {"hr_images": write_hr(tmp_path / "long.tif", np.random.default_rng(4).integers(0, 4, (2, 160, 64)))}


def unwatched(content: dict) -> dict:
    return {key: value for key, value in content.items() if key != "monitors"}


@pytest.mark.parametrize("critics", [False, True])
def test_monitors_change_nothing(parse, rock, long_images, tmp_path, critics):
    """The same checkpoint with them, without them, and with fewer looks."""
    files, tiny = (["critics.yaml"], CRITICS | {"held_out": 0.3, "watch_interval": 1}) if critics else ([], TINY)
    found = {}
    for kind in ("watched", "rarely", "unwatched"):
        parser = parse(*files, **tiny | rock | long_images | {"max_epochs": 3, "output_dir": str(tmp_path / kind)})
        if kind == "rarely":
            parser["watch_interval"] = 2
        if kind == "unwatched":
            for place, handler in enumerate(parser["train#handlers"]):
                if handler["_target_"].endswith("Monitor"):
                    parser[f"train#handlers#{place}"] = {"_target_": "bundle.handlers.EpochLog"}  # the places of the others stay
                handler.pop("monitors", None)
        found[kind] = train(parser)
    seen = {"noise_diversity", "slice_diversity_hr", "agreement_pore"}
    assert seen <= set(found["watched"].state.metrics) and not seen & set(found["unwatched"].state.metrics)
    contents = {kind: load(tmp_path / kind / "checkpoint.pt") for kind in found}
    assert set(contents["watched"]["monitors"]) == {"generator", "critics"} and "monitors" not in contents["unwatched"]
    assert same(unwatched(contents["watched"]), contents["unwatched"]) and same(unwatched(contents["rarely"]), contents["unwatched"])


def test_critics_are_watched_over_a_resume(parse, rock, long_images, tmp_path):
    """What is seen after a resume is what would have been seen without the break."""
    settings = CRITICS | rock | long_images | {"held_out": 0.3, "watch_interval": 1, "seed": 4, "augmentation#interval": 1, "augmentation#images": 20}
    whole = train(parse("critics.yaml", **settings | {"max_epochs": 4, "output_dir": str(tmp_path / "whole")}))
    train(parse("critics.yaml", **settings | {"max_epochs": 2, "output_dir": str(tmp_path / "broken")}))
    resumed = train(parse("critics.yaml", **settings | {"max_epochs": 4, "resume": True, "output_dir": str(tmp_path / "broken")}))
    assert resumed.state.metrics == whole.state.metrics
    assert any(name.startswith("critic_overfitting_hr_") for name in whole.state.metrics)  # not with every seed: in so few steps not all critics tell
    content = load(tmp_path / "broken" / "checkpoint.pt")
    assert same(content, load(tmp_path / "whole" / "checkpoint.pt"))
    assert max(content["augmentation"]["p"].values()) > 0.1 and set(content["augmentation"]["r"]) == set(content["augmentation"]["p"])


def test_what_is_held_out_is_never_trained_on(parse, rock, tmp_path):
    """The last 48 of 160 rows are clay, all else is quartz: neither crops nor teachers hold clay, and the record notes the share."""
    hr = np.ones((2, 160, 64), np.uint8)
    hr[:, 112:] = 3
    images = {"hr_images": write_hr(tmp_path / "rows.tif", hr)}
    trainer = train(parse(**TINY | rock | images | {"held_out": 0.3}))
    for images in (trainer.patches.images["hr"], trainer.feedback.images["hr"]):
        assert [image.shape for image in images] == [(112, 64)] * 2 and all((image == 1).all() for image in images)
    assert all((crops.argmax(2) == 1).all() for crops in trainer.state.batch["hr"]) and set(trainer.state.batch) == {"image", "hr"}
    assert json.loads((tmp_path / "output" / "model.json").read_text())["settings"]["held_out"] == 0.3


def test_the_critics_monitor_sees_what_is_held_out(parse, rock, tmp_path):
    hr = np.ones((2, 160, 64), np.uint8)
    hr[:, 112:] = 3
    images = {"hr_images": write_hr(tmp_path / "rows.tif", hr)}
    parser = parse("critics.yaml", **CRITICS | rock | images | {"held_out": 0.3})
    torch.manual_seed(0)
    trainer, monitor = (parser.get_parsed_content(key) for key in ("train#trainer", "train#handlers#4"))
    for images, label in ((monitor.images, 1), (monitor.held_out, 3)):
        crops = monitor._crops(images, trainer)
        assert sorted(crops) == sorted(trainer.critics) and all((one.argmax(1) == label).all() for one in crops.values())


def test_critics_without_a_held_out_part_are_told_of(parse, rock, tmp_path, caplog):
    train(parse("critics.yaml", **CRITICS | rock))
    assert len([record for record in caplog.records if "held_out is 0" in record.getMessage()]) == 1
    caplog.clear()
    train(parse(**TINY | rock | {"output_dir": str(tmp_path / "other")}))
    assert "held_out" not in caplog.text


def test_a_held_out_part_too_small_for_a_crop(parse, rock, tmp_path):
    message = failure(parse(**TINY | rock | {"held_out": 0.3}))  # 19 of 64 pixels; crops take 48
    assert message == "held_out: an HR image of (64, 64) pixels is too small to hold a crop of 48 out; give larger images, smaller boxes, or 0"
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("resume", [False, "false", "true"])
def test_levels_are_frozen_where_there_is_something_to_freeze(bundle_root, tmp_path, resume):
    """The command line gives false as a text."""
    parser = ConfigParser()
    parser.read_config(str(bundle_root / "configs" / "train.yaml"))
    parser.update({"bundle_root": str(bundle_root), "output_dir": str(tmp_path), "frozen_levels": 1, "resume": resume})
    if resume == "true":
        assert not any(parameter.requires_grad for parameter in parser.get_parsed_content("network").trunk.parameters())
        return
    with pytest.raises(Exception) as caught:
        parser.get_parsed_content("network")
    assert "frozen_levels: 1 would keep the weights as chance gave them" in find_input_error(caught.value)
