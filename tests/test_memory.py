"""Memory: what a window takes is what it takes, and windows are as large as there is room."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from bundle import memory
from bundle.errors import InputError
from bundle.memory import ROOM, choose_core, free_memory, lack_of_memory, window_memory
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


# --- Too little of it --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allocate", "asked"),
    [
        (lambda: torch.empty(2**50, dtype=torch.uint8), "1,048,576 GiB more asked for"),
        (lambda: np.empty(2**55, np.uint8), "33,554,432 GiB more asked for"),
        (lambda: bytearray(2**60), None),
    ],
)
def test_allocations_that_really_fail_are_one_line(allocate, asked):
    with pytest.raises(InputError) as caught, lack_of_memory("a step", "lower x"):
        allocate()
    message = str(caught.value)
    assert re.fullmatch(r"a step: the memory is too little \((.* more asked for, )?[\d.]+ GiB free\); lower x", message), message
    assert asked is None or asked in message


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 3.00 GiB is free.", "20 GiB"),
        ("CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has", "0.5 GiB"),
        ("[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: not enough memory: you tried to allocate 3221225472 bytes.", "3 GiB"),
        ("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 1048576 bytes.", "1 MiB"),
        ("[enforce fail] not enough memory: Unable to allocate 512. MiB for an array", "0.5 GiB"),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", None),
        ("could not create a primitive", None),  # oneDNN, one time in ten where a step is refused
    ],
)
def test_what_allocators_of_other_machines_say(said, asked):
    kind = torch.OutOfMemoryError if "CUDA" in said else RuntimeError
    with pytest.raises(InputError) as caught, lack_of_memory("a step", "lower x"):
        raise kind(said)
    assert f"too little ({asked} more asked for, " in str(caught.value) if asked else f"too little ({said}, " in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("could not create a primitive descriptor for a convolution"),  # oneDNN, of what it can't compute
        InputError("core: too little"),
        ValueError("x"),
    ],
)
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, lack_of_memory("a step", "lower x"):
        raise error
    assert caught.value is error


def run_limited(script: str, bundle_root) -> subprocess.CompletedProcess:
    """Python in a process of its own, in which `limit(MiB)` leaves it that much more address space."""
    head = f"""
        import resource, sys
        sys.path.insert(0, {str(bundle_root)!r})
        from bundle.errors import one_line_errors
        one_line_errors()
        def limit(mib):
            held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + mib * 2**20,) * 2)
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # threads take addresses of their own
    return subprocess.run([sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(script)], capture_output=True, text=True, env=environment)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit -v")
def test_a_limit_of_the_address_space_is_what_is_free(bundle_root):
    done = run_limited(
        """
        import torch
        from bundle.memory import free_memory
        limit(300)
        print(free_memory(torch.device("cpu")) / 2**20)
        """,
        bundle_root,
    )
    assert 200 < float(done.stdout) <= 300, done.stderr


def only_line(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit -v")
def test_a_window_that_the_system_refuses_is_one_line(bundle_root):
    """The memory is taken after the window was chosen: when its labels are read."""
    done = run_limited(
        """
        import numpy as np, torch
        from functools import partial
        from bundle.inferer import WindowInferer
        from bundle.io.region import replicated
        from bundle.networks.generator import LevelGenerator
        network = LevelGenerator(4, 3, channels=(32, 32, 32), blocks=0, grain_radius=2)
        read = partial(replicated, np.zeros((24, 24, 24), np.uint8))
        def reads(*box):
            limit(60)
            return read(*box)
        list(WindowInferer(24).windows(reads, network, (0, 0, 0), (24, 24, 24), 0))
        """,
        bundle_root,
    )
    assert re.fullmatch(r"error: core: windows of 24 LR voxels: the memory is too little \(.*[\d.]+ [GM]iB free\); set core to 12", only_line(done))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit -v")
def test_a_step_that_the_system_refuses_is_one_line(bundle_root):
    done = run_limited(
        """
        from ignite.engine import Events
        from torch import nn
        from tests.test_trainer import level_trainer
        trainer = level_trainer(batch_size=64, critics=nn.ModuleDict(), boxes=(6, 4))
        trainer.add_event_handler(Events.STARTED, lambda: limit(60))
        trainer.run()
        """,
        bundle_root,
    )
    words = r"error: training, a step \(iteration 1\): the memory is too little \(.*[\d.]+ [GM]iB free\); lower batch_size \(now 64\) or boxes \(now \[6, 4\]\)"
    assert re.match(words + r" or slices_per_plane \(now 2\), or set amp to true", only_line(done)), done.stderr[-500:]
