"""Memory: what a window takes is what it takes, and windows are as large as there is room."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from bundle import memory
from bundle.errors import InputError
from bundle.memory import ROOM, choose_core, free_memory, window_memory
from bundle.networks.generator import LevelGenerator
from bundle.networks.paper import PaperGenerator

MIB = 2**20


class Doubling(nn.Module):
    """Takes its input, of 3 channels, and at most two more tensors of that size at a time."""

    halo, scale_factor, in_channels, out_channels = 2, 1, 3, 3

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def noise_windows(self, size):
        return []

    def window(self, image, noise, labels=True, probabilities=False):
        x = image + 1
        for _ in range(5):
            x = x * 2  # the one before is freed
        return x[:, :1], x[:0]


def test_memory_of_a_known_network():
    """Nothing is computed: of 500 voxels an edge a tensor would take 1.4 GiB."""
    need = window_memory(Doubling(), 496, amp=False)
    assert need == pytest.approx(ROOM * 3 * 3 * 4 * 500**3, rel=0.01)


def test_half_precision_takes_less():
    network = LevelGenerator(4, 3, channels=(16, 16, 16), blocks=0, grain_radius=1)
    assert window_memory(network, 12, True) < 0.8 * window_memory(network, 12, False)


@pytest.mark.parametrize("core", [12, 24])
def test_memory_of_a_process(bundle_root, core):
    """What the process grows by when it computes a window, in float32 of the default generator."""
    script = f"""
        import json, sys
        sys.path.insert(0, {str(bundle_root)!r})
        import numpy as np, torch
        from bundle.inferer import WindowInferer
        from bundle.memory import window_memory
        from bundle.networks.generator import LevelGenerator
        network = LevelGenerator(4, 3, channels=(32, 32, 32), blocks=0, grain_radius=2).to(memory_format=torch.channels_last_3d)
        need = window_memory(network, {core}, False)
        run = lambda core: WindowInferer(core)(torch.zeros(1, 1, core, core, core, dtype=torch.uint8), network)
        peak = lambda: next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
        run(4)
        before = peak()  # ru_maxrss would begin with that of the process that started this one
        run({core})
        print(json.dumps([need, peak() - before]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    need, grown = json.loads(done.stdout.splitlines()[-1])
    assert 0.4 * need < grown < 1.1 * need


def test_the_papers_generator_is_measured_too():
    network = PaperGenerator(4, 3, width=32)
    need = [window_memory(network, core, False) for core in (2, 4, 6)]
    assert need == sorted(need) and need[-1] > ROOM * 4 * 8 * 28**3  # the features that its last stage enlarges


def test_the_largest_window_that_half_the_memory_holds():
    network = LevelGenerator(4, 3, channels=(16, 8, 8), blocks=1, grain_radius=2)
    need = {core: window_memory(network, core, False) for core in (4, 8, 12, 16)}
    assert list(need.values()) == sorted(need.values())
    assert choose_core(network, False, 2 * need[12], 64) == 12
    assert choose_core(network, False, 2 * need[12] - 2, 64) == 8
    assert choose_core(network, False, 1 << 50, 64) == 32
    assert choose_core(network, False, 1 << 50, 5) == 5  # more than the volume is never needed
    assert choose_core(network, False, 2 * need[12], 64, wanted=4) == 4
    assert choose_core(network, False, need[16], 64, wanted=16) == 16  # all of the memory if one says so


def test_too_little_memory_says_how_much_is_needed_and_what_lowers_it():
    network = LevelGenerator(4, 3, channels=(16, 8, 8), blocks=1, grain_radius=2)
    need = {core: window_memory(network, core, False) for core in (1, 12, 16)}
    with pytest.raises(InputError, match=r"core: a window of 16 LR voxels needs 0\.\d+ GiB of memory, 0\.\d+ GiB are free; set core to 12, or to null"):
        choose_core(network, False, 2 * need[12], 64, wanted=32 if need[16] < 2 * need[12] else 16)
    with pytest.raises(InputError, match="needs .* are free; free memory, or run fewer processes"):
        choose_core(network, False, need[1], 64)


def test_free_memory_is_what_the_system_has():
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) * 1024
    assert 10 * MIB < free_memory(torch.device("cpu")) <= total


def test_control_groups_limit_the_memory(tmp_path):
    """As containers and SLURM set them: the tightest group on the way to the root counts."""
    own, root = tmp_path / "own", tmp_path / "cgroup"
    own.write_text("0::/slurm/job\n")
    for folder, limit, used in ((root / "slurm" / "job", "max", 10), (root / "slurm", "1000", 300), (root, "5000", 400)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(str(used))
        (folder / "memory.stat").write_text("")
    (root / "slurm" / "memory.stat").write_text("anon 100\ninactive_file 150\nactive_file 30\n")
    assert sorted(memory._group_memory(root, own)) == [880, 4600]  # kept files give way
    own.write_text("5:cpu,cpuacct:/\n3:memory:/job\n")  # version 1
    folder = root / "memory" / "job"
    folder.mkdir(parents=True)
    for name, text in (("limit_in_bytes", "2000"), ("usage_in_bytes", "500"), ("stat", "total_inactive_file 20\n")):
        (folder / f"memory.{name}").write_text(text)
    assert memory._group_memory(root, own) == [1520]
    assert memory._group_memory(root, tmp_path / "absent") == []


def test_freed_memory_is_kept(bundle_root):
    """Blocks of 64 MiB, freed and asked for again: without it every page is new to the process."""
    script = f"""
        import resource, sys
        sys.path.insert(0, {str(bundle_root)!r})
        import torch
        from bundle.memory import keep_freed_memory
        assert keep_freed_memory() or print("unknown C library")
        for i in range(24):
            torch.ones(16 * 2**20)
            if i == 11:  # by now the heap has taken what it needs
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    if "unknown C library" in done.stdout:
        pytest.skip("not the GNU C library")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16384  # pages of 4 KiB in a single block
