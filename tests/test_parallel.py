"""The generator over three processes: gradients and weights are those of one process; what cannot work says so on every process."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from bundle import parallel
from bundle.buffer import SliceBuffer
from bundle.checkpoint import load_model
from bundle.errors import InputError
from bundle.losses.adversarial import WassersteinLoss
from bundle.losses.feedback import StatisticsFeedback
from bundle.networks.critic import SliceCritic
from bundle.networks.generator import LevelGenerator
from bundle.networks.paper import PaperGenerator
from bundle.parallel import Pipeline, cut, part_costs
from bundle.pipeline_trainer import PipelineTrainer
from bundle.trainer import SuperResolutionTrainer
from tests import test_trainer
from tests.test_data_parallel import kill_once, torchrun, torchrun_script
from tests.test_trainer import level_trainer, trainer_of
from tests.test_training_workflow import CRITICS, write_hr, write_lr

# name -> generator, schedule, microbatches, iterations, learning rate; batches of four
CASES = {
    "ours_gpipe_2": ("ours", "gpipe", 2, 1, 1.0),
    "ours_gpipe_4": ("ours", "gpipe", 4, 1, 1.0),
    "ours_1f1b_4": ("ours", "1f1b", 4, 1, 1.0),
    "paper_gpipe_2": ("paper", "gpipe", 2, 1, 1.0),
    "paper_1f1b_4": ("paper", "1f1b", 4, 1, 1.0),
    "ours_twenty": ("ours", "1f1b", 4, 20, 2e-3),
    "ours_buffer": ("ours", "1f1b", 4, 6, 5e-4),
    "paper_twenty": ("paper", "gpipe", 2, 20, 1e-3),
}


def trainer_for(case: str, pipeline: Pipeline | None = None) -> SuperResolutionTrainer:
    kind, _, microbatches, iterations, lr = CASES[case]
    test_trainer.SuperResolutionTrainer = SuperResolutionTrainer if pipeline is None else PipelineTrainer
    options = {"iterations": iterations, "lr": lr, "batch_size": 4, "parallel": pipeline, "max_grad_norm": None if lr == 1.0 else 0.5}
    if iterations == 1:  # gradients of some tenths, whose rounding is below 1e-6
        options |= {"adversarial_weight": 0.05, "consistency_weight": 0.05, "adversarial": WassersteinLoss(1.0)}
    if kind == "ours":
        # the buffer holds half precision, in which the rounding of probabilities would grow, and labels are exact
        options |= {"hard_labels": iterations < 20, "buffer": SliceBuffer(3, 7) if iterations == 6 else None}
        return level_trainer(**options, n_critic=1 if iterations == 1 else 2, match_label=0, crops=4)
    torch.manual_seed(0)
    network = PaperGenerator(3, 3, 16)
    trainer = trainer_of(network, scales=(8,), critic=lambda: SliceCritic(3, [4, 4]), separate_planes=iterations > 1, **options)
    if pipeline is None:  # batch statistics are those of a microbatch, whoever computes them
        trainer.decoder = lambda image, edges: [
            (8, torch.cat([network(part) for part in image.chunk(microbatches)]), ((0, 0, 0), image.shape[-1]))
        ]
    return trainer


@pytest.fixture(scope="module")
def pipelined(tmp_path_factory, bundle_root) -> Path:
    """Folder with the weights of the three processes after each case."""
    folder = tmp_path_factory.mktemp("pipelined")
    text = f"""
        import torch
        from bundle.parallel import Pipeline
        from tests.test_parallel import CASES, trainer_for
        for case, (_, schedule, microbatches, *_) in CASES.items():
            parallel = Pipeline(microbatches, schedule)
            trainer = trainer_for(case, parallel)
            trainer.run()
            state = {{name: part.state_dict() for name, part in trainer.parts().items() if name in ("network", "ema", "critics")}}
            state["stage"] = list(parallel.parts[parallel.rank])
            state["losses"] = {{k: v for k, v in trainer.state.output.items() if type(k) is str}}
            torch.save(state, {str(folder)!r} + f"/{{case}}_{{parallel.rank}}.pt")
        parallel.close()
    """
    done = torchrun_script(folder, bundle_root, text, 3)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.mark.parametrize("case", CASES)
def test_three_processes_learn_as_one(pipelined, case):
    """One step of length 1 along the gradient, to 1e-6; twenty steps, to 1e-5."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun does: more would add up in another order
    alone = trainer_for(case)
    start = {name: value.clone() for name, value in alone.network.state_dict().items()}
    alone.run()
    torch.set_num_threads(threads)
    states = [torch.load(pipelined / f"{case}_{rank}.pt", weights_only=True) for rank in range(3)]
    assert [state["stage"] for state in states] == [[0], [1], [2]]
    tolerance = 1e-6 if CASES[case][3] == 1 else 1e-5
    for name in ("network", "ema", "critics"):
        expected = {k: v for k, v in alone.parts()[name].state_dict().items() if "running" not in k and "tracked" not in k}
        for state in states:
            torch.testing.assert_close({k: state[name][k] for k in expected}, expected, rtol=0, atol=tolerance)
            torch.testing.assert_close(state[name], states[0][name], rtol=0, atol=0)
    assert max(float((alone.network.state_dict()[name] - value).abs().max()) for name, value in start.items()) > 10 * tolerance
    losses = {k: v for k, v in alone.state.output.items() if type(k) is str}
    assert states[0]["losses"] == states[2]["losses"] == pytest.approx(losses, abs=1e-5)


def test_what_microbatches_leave_is_remembered_as_long_as_what_a_step_does(monkeypatch):
    monkeypatch.setattr(test_trainer, "SuperResolutionTrainer", PipelineTrainer)
    feedback = StatisticsFeedback({"hr": [np.eye(16, dtype=np.uint8)]}, 2, [0.5, 0.5], steps=5)
    level_trainer(parallel=Mock(microbatches=4, shares=1), feedback=feedback)
    assert feedback.steps == 20


def test_batch_statistics_of_every_stage_reach_everyone(pipelined):
    state = torch.load(pipelined / "paper_twenty_0.pt", weights_only=True)["network"]
    tracked = {name: int(value) for name, value in state.items() if name.endswith("num_batches_tracked")}
    assert len(tracked) == 7 and set(tracked.values()) == {20 * 2 * 2}  # without and with gradients, two microbatches


def test_the_papers_generator_is_cut_where_the_paper_cuts_it():
    network = PaperGenerator(3, 3, 16)
    image = torch.zeros(2, 3, 4, 4, 4)
    assert cut(network, 3, image, [((0, 0, 0), 4)]) == [range(0, 1), range(1, 2), range(2, 3)]
    # multiply-adds of its convolutions by hand, two operations each; a transposed one of 4^3 reaches 8 weights a fine voxel
    w, n = 16, 2 * 4**3
    first = n * 27 * (3 * w + 2 * w * w) + 8 * n * 27 * w * w // 2
    second = 64 * n * (8 * w // 2 * w // 4 + 27 * w // 4 * w // 8)
    third = 512 * n * 27 * (w // 8 * w // 16 + w // 16 * 3)
    assert part_costs(network, image, [((0, 0, 0), 4)]) == [2 * first, 2 * second, 2 * third]


def test_ours_is_cut_where_the_largest_stage_is_smallest(monkeypatch):
    network = LevelGenerator(3, 2, (4, 4, 4, 4), blocks=0, grain_radius=1)
    costs = [5, 1, 2, 6]
    monkeypatch.setattr("bundle.parallel.part_costs", lambda *_: costs)
    image = torch.zeros(1, 3, 16, 16, 16)
    assert cut(network, 2, image, []) == [range(0, 2), range(2, 4)]  # 6 and 8
    assert cut(network, 3, image, []) == [range(0, 1), range(1, 3), range(3, 4)]
    assert cut(network, 1, image, []) == [range(0, 4)]
    with pytest.raises(InputError, match="LevelGenerator has 4 parts and cannot be cut into 5 stages"):
        cut(network, 5, image, [])


@pytest.mark.parametrize("kind", ["ours", "paper"])
def test_spread_over_devices_of_one_process_it_learns_the_same(kind):
    found = []
    for devices in (None, ["cpu", "cpu", "cpu"]):
        if kind == "ours":
            trainer = level_trainer(iterations=3, devices=devices)
        else:
            torch.manual_seed(0)
            trainer = trainer_of(PaperGenerator(3, 3, 16), iterations=3, scales=(8,), critic=lambda: SliceCritic(3, [4, 4]), devices=devices)
        trainer.run()
        found.append({name: part.state_dict() for name, part in trainer.parts().items() if name in ("network", "ema", "critics")})
    for name, state in found[0].items():
        torch.testing.assert_close(found[1][name], state, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["ours", "paper"])
def test_parts_compute_on_their_devices(kind, monkeypatch):
    """Every part is called with what lies on its device: a stand-in that notes where it brings what, since there is one device here."""
    brought = []
    call = parallel._Moving.__call__

    def note(self, module, inputs):
        brought.append((module, self.device.index))
        return call(self, module, inputs)

    monkeypatch.setattr(parallel._Moving, "__call__", note)
    if kind == "ours":
        network, edges = LevelGenerator(3, 2, (4, 4, 4), blocks=1, grain_radius=1), [4, 2]
        boxes = network.nested_boxes(network.patch_edge(edges), edges)
        image, run = torch.randn(1, 3, *[network.patch_edge(edges)] * 3), lambda: network.forward_boxes(image, boxes)
    else:
        network, boxes = PaperGenerator(3, 2, 16), []
        image, run = torch.randn(1, 3, 4, 4, 4), lambda: network(image)
    parallel.place(network, ["cpu:0", "cpu:1", "cpu:2"], image, boxes)
    run()
    for number in range(3):
        for module in network.layers(number):
            assert (module, number) in brought
    assert len(brought) == sum(len(network.layers(number)) for number in range(3))


def test_a_device_that_is_not_there():
    network = PaperGenerator(3, 2, 16)
    with pytest.raises(InputError, match="devices: cuda:0 is not there"):
        parallel.place(network, ["cpu", "cuda:0"], torch.zeros(1, 3, 4, 4, 4), [])
    with pytest.raises(InputError, match="3 parts and cannot be cut into 4 stages; take 3 processes or devices at most"):
        parallel.place(network, ["cpu"] * 4, torch.zeros(1, 3, 4, 4, 4), [])


BAD = {
    "uneven": ("Pipeline(3, 'gpipe')", "a batch of 4 patches cannot be cut into 3 equal microbatches"),
    "few": ("Pipeline(2, '1f1b')", "1f1b wants as many microbatches as there are processes, 3, not 2"),
    "schedule": ("Pipeline(2, 'zigzag')", "no schedule zigzag; give gpipe or 1f1b"),
}


def test_what_cannot_work_says_so_on_every_process(tmp_path, bundle_root):
    text = """
        from bundle.errors import InputError
        from bundle.parallel import Pipeline
        from tests.test_parallel import BAD, trainer_for
        for name, (pipeline, _) in BAD.items():
            try:
                trainer_for("ours_gpipe_2", eval(pipeline)).run()
            except InputError as error:
                sys.stdout.write(f"{name}: {error}\\n")
    """
    done = torchrun_script(tmp_path, bundle_root, text, 3)
    assert done.returncode == 0, done.stderr[-8000:]
    for name, (_, words) in BAD.items():
        lines = [line for line in done.stdout.splitlines() if line.startswith(f"{name}: ")]
        assert len(lines) == 3 and all(words in line for line in lines), done.stdout


def test_a_lost_process_ends_the_others_with_a_line(tmp_path, bundle_root):
    text = """
        import os, signal
        from ignite.engine import Events
        from bundle.errors import one_line_errors
        from bundle.parallel import Pipeline
        from tests.test_parallel import trainer_for
        one_line_errors()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun would end them before they notice
        trainer = trainer_for("ours_twenty", Pipeline(4, "1f1b"))
        if trainer.parallel.rank == 1:
            trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: os.kill(os.getpid(), signal.SIGKILL))
        trainer.run()
    """
    done = torchrun_script(tmp_path, bundle_root, text, 3)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "error: pipeline: process " in line]
    assert len(lines) == 2 and all("lost another at iteration 4" in line for line in lines), done.stderr[-3000:]


@pytest.mark.parametrize("published", [False, True])
def test_the_config_trains_a_model_that_inference_takes(tmp_path, bundle_root, published):
    """By the command line, killed once: the paper's networks and ours; the ordinary model.pt."""
    kill_once(tmp_path, rank=0, iteration=4)
    files = ["paper.yaml"] if published else ["critics.yaml"]
    tiny = {"epoch_length": 3, "n_critic": 1, "network_def#width": 16, "boxes": [8], "border": 0, "crops_per_plane": 2, "critic_def#last_kernel": 1}
    tiny = (tiny if published else CRITICS) | {"batch_size": 2, "max_epochs": 2}
    images = np.random.default_rng(1).integers(0, 4, (2, 64, 64))
    rock = {"lr_image": write_lr(tmp_path / "lr.tif"), "hr_images": write_hr(tmp_path / "hr.tif", images)}
    paths = [str(bundle_root / "configs" / name) for name in ("train.yaml", *files, "pipeline.yaml")] + [str(tmp_path / "kill.yaml")]
    options = [f"--{key}={value}" for key, value in (tiny | rock | {"output_dir": str(tmp_path / "out")}).items()]
    words = ["--max_restarts", "1", "-m", "monai.bundle", "run", "training", "--config_file", str(paths), *options]
    done = torchrun(*words, processes=2, folder=tmp_path, PYTHONPATH=str(bundle_root))
    assert done.returncode == 0, done.stderr[-8000:]
    assert (tmp_path / "killed").exists()
    phases = ["pore", "quartz", "feldspar", "clay"]
    network = PaperGenerator(5, 4, 16) if published else LevelGenerator(5, 4, (8, 8, 8, 8), blocks=1, grain_radius=1)
    load_model(network, tmp_path / "out" / "model.pt", phases, phases, 8)
    assert len(list((tmp_path / "out" / "tensorboard").iterdir())) == 2


def test_no_number_of_microbatches():
    with pytest.raises(InputError, match="microbatches: 0; give a whole number of parts of a batch"):
        Pipeline(0)
