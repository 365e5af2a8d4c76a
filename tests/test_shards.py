"""From disk to disk, shard by shard: any number of processes, killed or not, write the same bytes once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from bundle import shards
from bundle.errors import InputError
from bundle.inferer import WindowInferer
from bundle.io import Volume, write_volume
from bundle.io.source import LabelSource
from bundle.networks.generator import LevelGenerator
from bundle.shards import StoreInferer
from bundle.trust import Trust

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
    """The store of the labels."""
    return stores(source, folder, rank, world_size, core, seed, **options)["labels"]


def stores(source: LabelSource, folder: Path, rank: int = 0, world_size: int = 1, core: int = CORE, seed: int = 3, **options):
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
    """Every file of a shard, and when it was written; what a process that was killed while writing leaves (`*.partial`) is none."""
    found = {}
    for path in sorted((folder / "rock_sr.ome.zarr").rglob("*")):
        if path.is_file() and path.name != "zarr.json" and path.suffix != ".partial":
            with contextlib.suppress(FileNotFoundError):  # taken away meanwhile, to be written again
                found[path] = path.stat().st_mtime_ns
    return found


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


def test_a_damaged_shard_is_missing_for_all_as_soon_as_it_is_found(source, tmp_path, monkeypatch):
    """Else another process would take the volume for finished and write it to other formats."""
    infer(source, tmp_path)
    victim = list(shard_files(tmp_path))[3]
    victim.write_bytes(victim.read_bytes()[:-5])

    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(WindowInferer, "windows", stopped)
    with pytest.raises(KeyboardInterrupt):
        infer(source, tmp_path)
    assert not victim.exists()


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


@pytest.mark.parametrize("region", [[[3, 7], [0, 7], [2, 9]], [[0, 1], [6, 7], [4, 5]]])
def test_a_region_is_the_same_rock_as_in_the_whole(source, tmp_path, region):
    """Labels around it and noise are those of its place: parts that are made one by one meet without a seam."""
    trust = Trust(PHASES, np.random.default_rng(0).random((3, 2, 4)).cumsum(2) / 4)
    whole = stores(source, tmp_path / "whole", uncertainty=3, trust=trust)
    part = stores(LabelSource(source.path, 3, region=region), tmp_path / "part", uncertainty=3, trust=trust)
    box = tuple(slice(SCALE * a, SCALE * b) for a, b in region)
    for name in ("labels", "uncertainty", "majority", "trust"):
        arrays = [zarr.open_array(str(store[name].path / "0"), mode="r") for store in (whole, part)]
        np.testing.assert_array_equal(arrays[0][box], arrays[1][:], err_msg=name)


def test_what_lies_around_a_region_is_a_part_of_what_it_is_made_from(tmp_path):
    labels = np.random.default_rng(1).integers(3, size=(60, 4, 4), dtype=np.uint8)
    reach, region = generator().halo, [[1, 3], [0, 2], [0, 2]]
    assert 3 + reach < 59

    def infer_with(changed=None, first=1, origin=0.0):
        array = labels.copy()
        if changed is not None:
            array[changed] = (array[changed] + 1) % 3
        write_volume(tmp_path / "rock.nii", Volume(array, (4.0,) * 3, (origin, 0.0, 0.0)))
        infer(LabelSource(tmp_path / "rock.nii", 3, region=[[first, first + 2], *region[1:]]), tmp_path)

    infer_with()
    infer_with((3 + reach, 0, 0))
    with pytest.raises(InputError, match="lr_sha256"):
        infer_with((2 + reach, 0, 0))
    with pytest.raises(InputError, match="start in lr"):  # the same place in µm, other noise
        infer_with(first=2, origin=-4.0)


@pytest.mark.parametrize("place", [{"voxel_size": 5.0}, {"region": [[1, 10], [0, 7], [0, 9]]}])
def test_another_place_does_not_mix_in(source, tmp_path, place):
    """A corrected voxel size would leave the old one in the store."""
    write_volume(tmp_path / "even.nii", Volume(np.zeros((10, 7, 9), np.uint8), (4.0, 2.0, 8.0)))
    infer(LabelSource(tmp_path / "even.nii", 3, region=[[0, 9], [0, 7], [0, 9]]), tmp_path)
    with pytest.raises(InputError, match="voxel_size is|origin is"):
        infer(LabelSource(tmp_path / "even.nii", 3, **{"region": [[0, 9], [0, 7], [0, 9]]} | place), tmp_path)


def test_another_generator_does_not_mix_in(source, tmp_path, monkeypatch):
    """Its numbers, not its weights."""
    infer(source, tmp_path)
    changed = generator()
    changed.grain_perturbation = 0.0
    monkeypatch.setattr(sys.modules[__name__], "generator", lambda: changed)
    with pytest.raises(InputError, match="network grain_perturbation is 0.5, now 0.0"):
        infer(source, tmp_path)


def test_another_rock_does_not_mix_in(source, tmp_path):
    infer(source, tmp_path)
    other = np.zeros(SHAPE, np.uint8)
    write_volume(tmp_path / "other.nii", Volume(other, (4.0, 2.0, 8.0), (10.0, 20.0, 30.0)))
    with pytest.raises(InputError, match="lr_sha256 is .*, now"):
        infer(LabelSource(tmp_path / "other.nii", 3), tmp_path)


def test_probabilities_and_uncertainty_beside_the_labels(source, tmp_path):
    """Against whole volumes in memory, and scipy's entropy of the votes of five seeds."""
    infer(source, tmp_path / "labels")
    found = stores(source, tmp_path, probabilities=True, uncertainty=5)
    assert digest(tmp_path) == digest(tmp_path / "labels")  # what else is asked for does not change them
    volume = torch.from_numpy(source[0:10, 0:7, 0:9])[None, None]
    softmax = WindowInferer(CORE, 3, "probabilities")(volume, generator())[0].numpy()
    percent = found["probabilities"].volume().array[:]
    assert percent.shape == (3, 40, 28, 36) and np.abs(percent - 100 * softmax).max() <= 0.501
    votes = np.stack([(WindowInferer(CORE, seed)(volume, generator())[0, 0].numpy()[None] == np.arange(3)[:, None, None, None]) for seed in range(3, 8)])
    expected = 100 * stats.entropy(votes.sum(0), base=3, axis=0)
    best = found["majority"].volume().array[:]
    assert (np.take_along_axis(votes.sum(0), best[None].astype(int), 0)[0] == votes.sum(0).max(0)).all()
    uncertainty = found["uncertainty"].volume().array[:]
    assert np.abs(uncertainty - expected).max() <= 0.501 and 0 < expected.mean() < 100
    assert found["uncertainty"].voxel_size == found["labels"].voxel_size and found["uncertainty"].origin == found["labels"].origin


def test_trust_is_looked_up_by_label_scan_and_votes(source, tmp_path):
    """Against a loop over the voxels; trust needs votes."""
    table = np.random.default_rng(5).random((3, 2, 4))
    found = stores(source, tmp_path, uncertainty=3, trust=Trust(PHASES, table))
    labels, percent = (found[name].volume().array[:] for name in ("labels", "trust"))
    scan = source[0:10, 0:7, 0:9]
    others = [infer(source, tmp_path / str(seed), seed=seed).volume().array[:] for seed in (3, 4, 5)]
    kinds = set()
    for index in np.ndindex(*labels.shape):
        same = int(scan[tuple(i // SCALE for i in index)] == labels[index])
        votes = sum(int(volume[index] == labels[index]) for volume in others)
        assert percent[index] == round(100 * table[labels[index], same, votes])
        kinds.add((same, votes))
    assert len(kinds) == 6
    assert set(stores(source, tmp_path / "alone", trust=Trust(PHASES, table))) == {"labels"}
    with pytest.raises(InputError, match="trust"):
        stores(source, tmp_path, uncertainty=3, trust=Trust(PHASES, table / 2))


def test_what_is_asked_for_later_is_added(source, tmp_path):
    infer(source, tmp_path)
    before = shard_files(tmp_path)
    later = stores(source, tmp_path, uncertainty=2)
    assert shard_files(tmp_path) == before and later["uncertainty"].missing() == 0
    victim = next((tmp_path / "rock_sr_uncertainty.ome.zarr" / "1" / "c").rglob("0"))
    victim = victim if victim.is_file() else next(p for p in victim.rglob("*") if p.is_file())
    expected = victim.read_bytes()
    victim.unlink()
    assert stores(source, tmp_path, uncertainty=2)["uncertainty"].missing() == 0
    assert shard_files(tmp_path) == before and victim.read_bytes() == expected
    with pytest.raises(InputError, match="uncertainty is 2, now 3"):
        stores(source, tmp_path, uncertainty=3)


@pytest.mark.parametrize("options", [{"uncertainty": 1}, {"uncertainty": 255}, {"uncertainty": "true"}, {"uncertainty": True}, {"shard": 0}, {"shard": "large"},
                                     {"rank": 2, "world_size": 2}])
def test_options_that_make_no_sense(source, tmp_path, options):
    with pytest.raises(InputError, match=next(iter(options))):
        infer(source, tmp_path, **options)


def test_seeds_without_noise_are_no_votes(source, tmp_path):
    window = WindowInferer(CORE, 3, noise_std=0.0)
    StoreInferer(window, tmp_path / "rock.ome.zarr", PHASES, {})
    with pytest.raises(InputError, match="uncertainty: without noise all 8 seeds are alike"):
        StoreInferer(window, tmp_path / "rock.ome.zarr", PHASES, {}, uncertainty=8)


def test_too_little_memory_shows_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr("bundle.inferer.free_memory", lambda device: 1000)
    with pytest.raises(InputError, match="core: a window of 2 LR voxels needs"):
        infer(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shards_that_take_more_than_is_free_are_told_and_one_that_fits(source, tmp_path, monkeypatch):
    """Two of 3 + 3 layers, of 6 LR voxels a side at 4x: 165,888 bytes; of 3 an eighth. What a window takes is another matter."""
    monkeypatch.setattr("bundle.inferer.free_memory", lambda device: 150_000)
    monkeypatch.setattr("bundle.inferer.choose_core", lambda *_: 1)
    message = "^shard: shards of 6 LR voxels take 0.16 MiB of memory, 0.14 MiB are free; set shard to 3 and choose another output_dir, or run fewer"
    with pytest.raises(InputError, match=message):
        infer(source, tmp_path / "out", shard=6, uncertainty=2)
    assert not (tmp_path / "out").exists()
    infer(source, tmp_path / "out", shard=3, uncertainty=2)


def test_shards_of_a_thin_volume_take_no_more_than_it_holds(tmp_path, monkeypatch):
    """1 x 1 x 40 LR voxels at 4x are 2,560 bytes, one made and one written, not the cubes of 160."""
    write_volume(tmp_path / "thin.nii", Volume(np.zeros((1, 1, 40), np.uint8), (1.0,) * 3))
    left = []  # for windows
    monkeypatch.setattr("bundle.inferer.free_memory", lambda device: 6000)
    monkeypatch.setattr("bundle.inferer.choose_core", lambda network, amp, free, *_: left.append(free) or 1)
    assert infer(LabelSource(tmp_path / "thin.nii", 3), tmp_path, shard=40).missing() == 0
    assert left == [6000 - 2 * 4 * 4 * 160]


def test_memory_that_a_shard_lacks_is_one_line(source, tmp_path, monkeypatch):
    """An allocation that really fails, of the votes of a shard."""
    zeros = np.zeros
    monkeypatch.setattr("bundle.shards.np.zeros", lambda shape, dtype: zeros([2**12 * n for n in shape], dtype) if len(shape) == 4 else zeros(shape, dtype))
    with pytest.raises(InputError, match=r"^shard: shards of 4 LR voxels: the memory is too little \(.*\); set shard to 2 and choose another output_dir"):
        infer(source, tmp_path, uncertainty=2)


def test_a_disk_that_is_full_in_the_middle(tmp_path, bundle_root):
    """A real process that may write only small files: one line, what is finished is kept, and with room it goes on."""
    labels = np.random.default_rng(1).integers(3, size=(16, 8, 16), dtype=np.uint8)  # 4 shards of about the same size, the first not the largest
    write_volume(tmp_path / "rock.nii", Volume(labels, (4.0, 2.0, 8.0), (10.0, 20.0, 30.0)))
    text = f"""
        import resource, sys
        from pathlib import Path
        sys.path[:0] = [{str(bundle_root)!r}, {str(bundle_root / "tests")!r}]
        import test_shards as t
        from bundle.errors import InputError
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
        try:
            t.infer(t.LabelSource(Path({str(tmp_path)!r}) / "rock.nii", 3), Path({str(tmp_path)!r}), shard=8)
        except InputError as error:
            sys.exit(str(error))
    """
    infer(LabelSource(tmp_path / "rock.nii", 3), tmp_path / "straight", shard=8)  # large enough for a file of a shard to be the largest
    sizes = sorted(p.stat().st_size for p in shard_files(tmp_path / "straight"))

    def run(limit: int) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", textwrap.dedent(text), str(limit)], capture_output=True, text=True)

    done = run(sizes[-1] - 1)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr.splitlines()[-1] and "it goes on" in done.stderr.splitlines()[-1]
    before = shard_files(tmp_path)
    assert run(1 << 30).returncode == 0
    after = shard_files(tmp_path)
    assert digest(tmp_path) == digest(tmp_path / "straight") and len(after) == 4 * 3
    whole = [p for p in before if p.relative_to(tmp_path).parts[1] == "0"]  # the finest level is written last
    assert whole and all(after[p] == before[p] for p in whole)


def test_the_bar_counts_voxels_and_shards(source, tmp_path, capsys):
    infer(source, tmp_path, progress=True)
    shown = capsys.readouterr().err
    assert "shards 18/18" in shown and "40.3k/40.3k" in shown and "voxel/s" in shown  # 10 x 7 x 9 x 4^3


def test_counting_takes_a_twentieth_of_the_time(source, tmp_path, monkeypatch):
    """Each of 18 shards takes 30 s, a count 10: after one the next comes 200 s later, 7 shards on, and one at the end."""
    clock, counts = [0.0], []
    monkeypatch.setattr(shards.time, "monotonic", lambda: clock[0])

    def counted(stores):
        counts.append(clock[0])
        clock[0] += 10
        return "counted"

    def made(self, *args, whole=StoreInferer._shard):
        clock[0] += 30
        return whole(self, *args)

    monkeypatch.setattr(shards, "_progress", counted)
    monkeypatch.setattr(StoreInferer, "_shard", made)
    infer(source, tmp_path, progress=True)
    assert counts == [0.0, 220.0, 440.0, 570.0]


ROUNDS = """
    import json, os, random, signal, sys, time
    from pathlib import Path
    sys.path[:0] = [{root!r}, {tests!r}]
    import torch, zarr
    import test_shards as t
    folder, draw = Path({folder!r}), random.Random(0)

    def fork(rank, number):
        pid = os.fork()  # of a process that has imported everything and started no thread
        if pid:
            return pid
        code = 1
        try:
            torch.set_num_threads(1)
            t.infer(t.LabelSource(folder / "rock.nii", 3), folder, rank, number)
            code = 0
        finally:
            os._exit(code)

    def files():
        return {{str(p): ns for p, ns in t.shard_files(folder).items()}}

    rounds = []
    for _ in range({kills}):
        pids = [fork(rank, 2) for rank in range(2)]
        wanted, deadline = min(300, len(files()) + draw.randrange(20)), time.monotonic() + 60  # a busy machine takes its time
        while len(files()) < wanted and time.monotonic() < deadline:
            pass
        time.sleep(draw.uniform(0.0, 0.01))
        for pid in draw.sample(pids, 2):
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
        rounds.append(files())
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in [fork(rank, 2) for rank in range(2)]]
    print(json.dumps([rounds, files(), codes]))
"""


def test_killed_at_any_time_it_goes_on(tmp_path, bundle_root):
    """kill -9 of two real processes at 20 random moments: nothing lost, nothing that was whole written again."""
    straight = tmp_path / "straight"
    large = np.random.default_rng(2).integers(3, size=(20, 16, 18), dtype=np.uint8)  # 5 x 4 x 5 shards
    write_volume(tmp_path / "rock.nii", Volume(large, (4.0, 2.0, 8.0), (10.0, 20.0, 30.0)))
    infer(LabelSource(tmp_path / "rock.nii", 3), straight)
    text = textwrap.dedent(ROUNDS).format(root=str(bundle_root), tests=str(bundle_root / "tests"), folder=str(tmp_path), kills=20)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rounds, last, codes = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0, 0] and len(last) == 300
    assert len({len(files) for files in rounds if 0 < len(files) < 300}) > 10, "too few kills in the middle"

    def level(file: str) -> tuple[str, ...]:
        return Path(file).relative_to(tmp_path / "rock_sr.ome.zarr").parts

    for before, after in zip(rounds, [*rounds[1:], last]):
        for file, written in before.items():
            parts = [str(Path(tmp_path / "rock_sr.ome.zarr", str(k), *level(file)[1:])) for k in range(3)]
            if all(part in before for part in parts):
                assert after.get(file) == written, "lost or written twice"
    assert digest(tmp_path) == digest(straight)


def test_torchrun_with_a_rank_killed(source, tmp_path, bundle_root):
    """Two ranks of torchrun, one of which dies after a shard; run again, only what is missing is written."""
    script = tmp_path / "rank.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, signal, sys
            from pathlib import Path
            sys.path[:0] = [{str(bundle_root)!r}, {str(bundle_root / "tests")!r}]
            import test_shards as t
            from bundle.store import LabelStore
            rank, folder, write = int(os.environ["RANK"]), Path({str(tmp_path)!r}), LabelStore.write

            def dying(self, start, voxels):
                write(self, start, voxels)
                os.kill(os.getpid(), signal.SIGKILL)

            if rank == 1 and "kill" in sys.argv:
                LabelStore.write = dying
            t.infer(t.LabelSource(folder / "rock.nii", 3), folder, rank, int(os.environ["WORLD_SIZE"]))
            """
        )
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0", str(script)]
    first = subprocess.run([*torchrun, "kill"], capture_output=True, text=True, timeout=300)
    assert first.returncode != 0
    before = shard_files(tmp_path)
    assert 0 < len(before) < 54
    again = subprocess.run(torchrun, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    after = shard_files(tmp_path)
    whole = [p for p in before if all(tmp_path.joinpath("rock_sr.ome.zarr", str(k), *p.parts[-4:]) in before for k in range(3))]
    assert len(whole) >= 3 and all(after[p] == before[p] for p in whole)
    infer(source, tmp_path / "straight")
    assert len(after) == 54 and digest(tmp_path) == digest(tmp_path / "straight")
