"""From disk to disk, shard by shard: any number of processes, killed or not, write the same bytes once."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bundle.errors import InputError
from bundle.inferer import StoreInferer, WindowInferer
from bundle.io import Volume, write_volume
from bundle.io.source import LabelSource
from bundle.networks.generator import LevelGenerator

zarr = pytest.importorskip("zarr")

SHAPE, SCALE, SHARD, CORE = (10, 7, 9), 4, 4, 2  # 3 x 2 x 3 = 18 shards
PHASES = ["pore", "quartz", "clay"]


def generator() -> LevelGenerator:
    torch.manual_seed(0)
    return LevelGenerator(4, 3, channels=(4, 3, 2), blocks=0, grain_radius=1).eval()


@pytest.fixture
def source(tmp_path) -> LabelSource:
    labels = np.random.default_rng(1).integers(3, size=SHAPE, dtype=np.uint8)
    write_volume(tmp_path / "rock.nii", Volume(labels, (4.0, 2.0, 8.0), (10.0, 20.0, 30.0)))
    return LabelSource(tmp_path / "rock.nii", 3)


def infer(source: LabelSource, folder: Path, rank: int = 0, world_size: int = 1, core: int = CORE, seed: int = 3, **options):
    window = WindowInferer(core, seed)
    fingerprint = {"weights": "abc"} | options.pop("fingerprint", {})
    store = folder / "rock_sr.ome.zarr"
    return StoreInferer(window, store, PHASES, fingerprint, **{"shard": SHARD, "rank": rank, "world_size": world_size, "progress": False} | options)(
        source, generator()
    )


def digest(folder: Path) -> str:
    """SHA-256 of the labels."""
    array = zarr.open_array(str(folder / "rock_sr.ome.zarr" / "0"), mode="r")[:]
    return hashlib.sha256(array.tobytes()).hexdigest()


def shard_files(folder: Path) -> dict[Path, int]:
    """Every file of a shard, and when it was written."""
    return {p: p.stat().st_mtime_ns for p in sorted((folder / "rock_sr.ome.zarr").rglob("*")) if p.is_file() and p.name != "zarr.json"}


def test_a_store_holds_the_labels_of_the_volume_in_memory(source, tmp_path):
    store = infer(source, tmp_path)
    expected = WindowInferer(CORE, 3)(torch.from_numpy(source[0:10, 0:7, 0:9])[None, None], generator())[0, 0]
    assert store.missing() == 0
    np.testing.assert_array_equal(store.volume().array[:], expected.numpy())
    assert len(np.unique(expected)) > 1
    # corners stay where they were: 4, 2 and 8 µm voxels, from the centre of the first
    assert store.voxel_size == (1.0, 0.5, 2.0) and store.origin == (8.5, 19.25, 27.0)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_work_in_any_order(source, tmp_path, world_size):
    one = tmp_path / "one"
    infer(source, one)
    for rank in reversed(range(world_size)):
        assert not (tmp_path / "many").exists() or infer_left(tmp_path / "many") > 0
        store = infer(source, tmp_path / "many", rank, world_size)
    assert store.missing() == 0 and digest(tmp_path / "many") == digest(one)


def infer_left(folder: Path) -> int:
    return 18 - len([p for p in shard_files(folder) if p.relative_to(folder).parts[1] == "0"])


def test_what_is_finished_is_left_and_what_is_damaged_is_made_again(source, tmp_path, caplog):
    infer(source, tmp_path)
    before, expected = shard_files(tmp_path), digest(tmp_path)
    victims = list(before)[3], list(before)[-2]
    victims[0].unlink()
    victims[1].write_bytes(victims[1].read_bytes()[:-5])
    infer(source, tmp_path)
    after = shard_files(tmp_path)
    assert digest(tmp_path) == expected and after.keys() == before.keys()
    again = {p.relative_to(tmp_path / "rock_sr.ome.zarr").parts[1:] for p in after if after[p] != before[p]}
    assert again == {p.relative_to(tmp_path / "rock_sr.ome.zarr").parts[1:] for p in victims}
    written = shard_files(tmp_path)
    infer(source, tmp_path)
    assert shard_files(tmp_path) == written


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"seed": 4}, "seed is 3, now 4"), ({"fingerprint": {"weights": "abd"}}, "weights is abc, now abd"), ({"shard": 8}, "shard is 16, now 32")],
)
def test_another_run_does_not_mix_in(source, tmp_path, changes, words):
    infer(source, tmp_path)
    before = shard_files(tmp_path)
    with pytest.raises(InputError, match=words):
        infer(source, tmp_path, **changes)
    assert shard_files(tmp_path) == before


def test_another_rock_does_not_mix_in(source, tmp_path):
    infer(source, tmp_path)
    other = np.zeros(SHAPE, np.uint8)
    write_volume(tmp_path / "other.nii", Volume(other, (4.0, 2.0, 8.0), (10.0, 20.0, 30.0)))
    with pytest.raises(InputError, match="lr_sha256 is .*, now"):
        infer(LabelSource(tmp_path / "other.nii", 3), tmp_path)


def test_a_store_holds_labels(tmp_path):
    with pytest.raises(InputError, match="output"):
        StoreInferer(WindowInferer(output="probabilities"), tmp_path / "a.ome.zarr", PHASES, {})


def test_the_bar_counts_voxels_and_shards(source, tmp_path, capsys):
    infer(source, tmp_path, progress=True)
    shown = capsys.readouterr().err
    assert "shards 18/18" in shown and "40.3k/40.3k" in shown and "voxel/s" in shown  # 10 x 7 x 9 x 4^3


SCRIPT = """
    import os, sys
    from pathlib import Path
    import torch
    sys.path[:0] = [{root!r}, {tests!r}]
    torch.set_num_threads(1)
    import test_shards as t
    folder = Path({folder!r})
    source = t.LabelSource(folder / "rock.nii", 3)
    t.infer(source, folder, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
"""


@pytest.fixture
def script(tmp_path, bundle_root) -> Path:
    text = textwrap.dedent(SCRIPT).format(root=str(bundle_root), tests=str(bundle_root / "tests"), folder=str(tmp_path))
    (tmp_path / "run.py").write_text(text)
    return tmp_path / "run.py"


def processes(script: Path, number: int) -> list[subprocess.Popen]:
    return [
        subprocess.Popen([sys.executable, str(script)], env=os.environ | {"RANK": str(rank), "WORLD_SIZE": str(number)}, stderr=subprocess.DEVNULL)
        for rank in range(number)
    ]


def test_killed_at_any_time_it_goes_on(source, tmp_path, script):
    """kill -9 of one of two processes at random moments, again and again, until all is there: nothing lost, nothing written twice."""
    straight = tmp_path / "straight"
    infer(source, straight)
    draw, store = np.random.default_rng(0), tmp_path / "rock_sr.ome.zarr"
    seen: dict[Path, int] = {}
    for _ in range(20):
        running = processes(script, 2)
        started = time.monotonic()
        while not store.exists() and time.monotonic() - started < 60:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        running[int(draw.integers(2))].send_signal(signal.SIGKILL)
        for process in running:
            process.wait(timeout=120)
        now = shard_files(tmp_path)
        complete = {p for p in seen if all((store / str(level)).joinpath(*p.relative_to(store).parts[1:]).exists() for level in range(3))}
        assert all(now.get(p) == seen[p] for p in complete), "written twice"
        seen = {p: t for p, t in now.items() if ".partial" not in p.name}
        if len(seen) == 54:
            break
    for process in processes(script, 2):
        assert process.wait(timeout=120) == 0
    assert digest(tmp_path) == digest(straight)
