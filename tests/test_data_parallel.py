"""Two processes under torchrun learn as one with the batches of both; killed, they go on."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from bundle.buffer import SliceBuffer
from bundle.data_parallel import DataParallel, ShareSampler
from bundle.errors import InputError
from bundle.losses.feedback import StatisticsFeedback
from bundle.losses.patches import SlicedWasserstein
from bundle.transforms.adaptive import AdaptiveAugmentation, LabelAugmentation
from tests.test_trainer import level_trainer
from tests.test_training_workflow import TINY, write_hr, write_lr

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def torchrun(*words: str, processes: int = 2, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), *words]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=300)


def torchrun_script(folder: Path, bundle_root: Path, text: str, processes: int = 2) -> subprocess.CompletedProcess:
    """Runs Python text that may import the bundle and the tests, in every process."""
    (folder / "script.py").write_text(f"import sys\nsys.path.insert(0, {str(bundle_root)!r})\n{textwrap.dedent(text)}")
    return torchrun(str(folder / "script.py"), processes=processes)


def kill_once(folder: Path, rank: int, iteration: int) -> None:
    """Writes `kill.yaml`, which kills (SIGKILL) a process at an iteration, the first time."""
    (folder / "killer.py").write_text(
        textwrap.dedent(
            """
            import os, signal
            from pathlib import Path
            from ignite.engine import Events

            def once(trainer, rank, iteration):
                def kill():
                    if not Path("killed").exists() and int(os.environ["RANK"]) == rank:
                        Path("killed").write_text(str(trainer.state.iteration))
                        os.kill(os.getpid(), signal.SIGKILL)
                trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), kill)
            """
        )
    )
    killing = f"$killer.once(@train#trainer, {rank}, {iteration})"  # makes the trainer
    (folder / "kill.yaml").write_text(f'+imports: ["$import killer"]\ninitialize: ["$torch.manual_seed(@seed)", "{killing}"]\n')


def trainer_with(teacher: str, batch_size: int, parallel: DataParallel | None = None):
    """Six steps of the tiny default generator, with everything that draws random numbers or looks at a whole batch."""
    images = {"hr": list(np.random.default_rng(3).integers(0, 3, (2, 40, 40)).astype(np.uint8))}
    common = {"batch_size": batch_size, "parallel": parallel, "buffer": SliceBuffer(3, 5), "max_grad_norm": 0.5, "lr": 1e-2}
    if teacher == "patches":
        return level_trainer(
            **common, critics=torch.nn.ModuleDict(), hard_labels=False, patches=SlicedWasserstein(images, 3, 4, 3, samples=64),
            feedback=StatisticsFeedback(images, 3, [0.5, 0.5]),
        )  # fmt: skip
    turning = AdaptiveAugmentation(LabelAugmentation(), images=50)
    return level_trainer(**common, n_critic=2, warmup_iterations=1, match_label=0, crops=4, augmentation=turning)


@pytest.fixture(scope="module")
def together(tmp_path_factory, bundle_root) -> Path:
    """Folder with the weights of both processes after both trainings."""
    folder = tmp_path_factory.mktemp("together")
    text = f"""
        import torch
        from bundle.data_parallel import DataParallel
        from tests.test_data_parallel import trainer_with
        parallel = DataParallel()
        assert parallel.neighbours == 2
        for teacher in ("patches", "critics"):
            trainer = trainer_with(teacher, 1, parallel)
            trainer.run()
            state = {{name: part.state_dict() for name, part in trainer.parts().items() if name in ("network", "ema", "critics", "augmentation")}}
            torch.save(state, {str(folder)!r} + f"/{{teacher}}_{{parallel.rank}}.pt")
        parallel.close()
    """
    done = torchrun_script(folder, bundle_root, text)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("teacher", ["patches", "critics"])
def test_two_processes_learn_as_one_with_double_batch(together, teacher):
    alone = trainer_with(teacher, 2)
    start = {name: value.clone() for name, value in alone.network.state_dict().items()}
    alone.run()
    both = [torch.load(together / f"{teacher}_{rank}.pt", weights_only=True) for rank in range(2)]
    for name in ("network", "ema", "critics"):
        expected = alone.parts()[name].state_dict()
        for found in both:
            torch.testing.assert_close(found[name], dict(expected), rtol=0, atol=1e-5)
        torch.testing.assert_close(both[0][name], both[1][name], rtol=0, atol=0)
    assert max(float((value - start[name]).abs().max()) for name, value in alone.network.state_dict().items()) > 1e-3
    if teacher == "critics":
        assert both[0]["augmentation"] == both[1]["augmentation"] == alone.augmentation.state_dict()


def test_one_process_with_its_own_batch_alone_learns_something_else(together):
    """What the comparison above can tell apart: half of the batch."""
    alone = trainer_with("patches", 1)
    alone.run()
    both = torch.load(together / "patches_0.pt", weights_only=True)
    assert max(float((value - both["network"][name]).abs().max()) for name, value in alone.network.state_dict().items()) > 1e-4


@pytest.mark.parametrize(("batch_size", "size"), [(1, 2), (3, 2), (2, 3)])
def test_shares_are_the_batches_of_one_process(batch_size, size):
    items = list(range(4 * batch_size * size))
    whole = [batch.tolist() for batch in DataLoader(items, batch_size * size)]
    shares = [[b.tolist() for b in DataLoader(items, batch_size, sampler=ShareSampler(len(items), batch_size, rank, size))] for rank in range(size)]
    assert [sum(parts, []) for parts in zip(*shares)] == whole
    assert all(len(share) == len(ShareSampler(len(items), batch_size, 0, size)) // batch_size == 4 for share in shares)


def test_without_torchrun_it_says_how_to_start():
    with pytest.raises(InputError, match="start it with `torchrun"):
        DataParallel()


def test_a_killed_process_is_started_again_and_the_training_ends(tmp_path, bundle_root):
    """kill -9 of the second process in the second epoch: both start again, from the checkpoint; the model is that of one process with double batch."""
    kill_once(tmp_path, rank=1, iteration=5)
    rock = {
        "lr_image": write_lr(tmp_path / "lr.tif"),
        "hr_images": write_hr(tmp_path / "hr.tif", np.random.default_rng(1).integers(0, 4, (2, 64, 64))),
    }
    configs = bundle_root / "configs"
    # Adam would make a step of full length of the rounding of a gradient that is zero
    rock["g_optimizer"] = "$torch.optim.SGD(@network.parameters(), lr=0.0002, momentum=0.5)"
    rock |= {"feedback_weight": 0.1, "feedback#fractions": 15.0}  # its prices are steep: rounding grows with them
    made = {}
    for name, files, processes, batch in (("both", ["multi_gpu.yaml"], 2, 1), ("alone", [], 1, 2)):
        paths = [str(configs / "train.yaml"), *(str(configs / file) for file in files), *([str(tmp_path / "kill.yaml")] if files else [])]
        options = TINY | rock | {"max_epochs": 3, "batch_size": batch, "output_dir": str(tmp_path / name)}
        words = ["-m", "monai.bundle", "run", "training", "--config_file", str(paths), *(f"--{key}={value}" for key, value in options.items())]
        if files:
            done = torchrun("--max_restarts", "1", *words, folder=tmp_path, PYTHONPATH=str(bundle_root))
        else:
            done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        made[name] = torch.load(tmp_path / name / "model.pt", weights_only=True)["model"]
    assert (tmp_path / "killed").read_text() == "5"
    torch.testing.assert_close(made["both"], made["alone"], rtol=0, atol=1e-5)
    assert len(list((tmp_path / "both" / "tensorboard").iterdir())) == 2  # of the first process alone, before and after


def test_without_torchrun_the_config_says_how_to_start(tmp_path, bundle_root):
    paths = [str(bundle_root / "configs" / name) for name in ("train.yaml", "multi_gpu.yaml")]
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(paths), f"--output_dir={tmp_path / 'out'}"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("error: parallel: ") and not (tmp_path / "out").exists()
