"""How much memory there is, how much a window takes, and how freed memory is used again."""

from __future__ import annotations

import ctypes
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bundle.errors import InputError

CORES = (32, 24, 16, 12, 8, 4, 2, 1)  # LR voxels; beyond 32 nothing is gained
ROOM = 1.5  # what a window takes is this much more than its tensors: the allocator's gaps, and the work space of convolutions
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h

# What torch says on a processor of each system, on a GPU, and what the libraries that it calls say: oneDNN makes no primitive when it gets no memory
# for its code or its work space. (What it does not know how to compute, it calls a primitive descriptor.)
_LACKING = re.compile("can't allocate memory|not enough memory|out of memory|ALLOC_FAILED|bad_alloc|could not create a primitive(?! descriptor)")
_ASKED = re.compile(r"(?:allocate|allocating) (\d+(?:\.\d*)?) ?(bytes|[KMGTPE]iB)")  # of torch on a processor or GPU, and of NumPy
_UNITS = {"bytes": 1, **{f"{prefix}iB": 2 ** (10 * power) for power, prefix in enumerate("KMGTPE", start=1)}}


def keep_freed_memory() -> bool:
    """Let this process keep the memory that tensors free, for the next ones: glibc gives large blocks back, and asking again takes a fifth of the
    time.

    Returns:
        whether the C library knows how; others are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take, on a GPU or of the main memory: what is free, and what limits (ulimit, container, SLURM) leave."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [_system_memory(), *_address_space(), *_group_memory(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))]
    return max(0, min(limits))


@contextmanager
def lack_of_memory(doing: str, advice: str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Turns the errors of allocators into one line that says what was asked for, what is free and what to do.

    Args:
        doing: what the memory is too little for; the line starts with it.
        advice: the setting that lowers it.
        device: whose free memory is told.

    Raises:
        InputError: instead of what an allocator of Python, NumPy or torch raised. All other errors pass.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        lacking = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not lacking and not _LACKING.search(str(error)):
            raise
        asked, free = _ASKED.search(str(error)), f"{size_text(free_memory(torch.device(device)))} free"
        # Who names no number is quoted: a reader who sees that much is free looks for another cause.
        said = f"{size_text(float(asked[1]) * _UNITS[asked[2]])} more asked for" if asked else str(error).strip().partition("\n")[0][:80]
        numbers = f"{said}, {free}" if said else free
        raise InputError(f"{doing}: the memory is too little ({numbers}); {advice}") from error


def _system_memory() -> int:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux: what most computers have at least
        return 4 * 2**30


def _address_space() -> list[int]:
    """What `ulimit -v` leaves of the addresses that the process may hold; nothing where there is no such limit."""
    try:
        import resource  # not on Windows

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return []
    return [] if limit == resource.RLIM_INFINITY else [limit - held]


def _group_memory(root: Path, own: Path) -> list[int]:
    """What the limits of this process's control groups leave, of both versions. Files that the system keeps in memory count as free."""
    try:
        entries = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    left = []
    for _, controllers, name in entries:
        if controllers == "":
            base, limit, usage, cache = root, "memory.max", "memory.current", ("inactive_file", "active_file")
        elif "memory" in controllers.split(","):
            base, limit, usage = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = ("total_inactive_file", "total_active_file")
        else:
            continue
        folder = base / name.lstrip("/")
        for group in (folder, *folder.parents):
            try:
                kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                free = int((group / limit).read_text()) - int((group / usage).read_text())
                left.append(free + sum(int(kept.get(key, 0)) for key in cache))
            except (OSError, ValueError):  # no such group, or "max"
                pass
            if group == base:
                break
    return left


def window_memory(network: nn.Module, core: int, amp: bool, probabilities: bool = False) -> int:
    """Bytes that a window takes, found by going through the network without computing.

    Args:
        network: as for `WindowInferer`.
        core: edge, LR voxels.
        amp: under bfloat16 autocast.
        probabilities: of the phases, beside the labels.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a moment to import

    edge, device = core + 2 * network.halo, next(network.parameters()).device
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), LiveBytes() as tensors:
        image = torch.empty(1, network.in_channels, edge, edge, edge, device=device).contiguous(memory_format=torch.channels_last_3d)
        noise = [torch.empty(1, 1, *shape, device=device) for _, _, shape in network.noise_windows([core] * 3)]
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            network.window(image, noise, True, probabilities)
    return int(ROOM * tensors.peak)


def choose_core(network: nn.Module, amp: bool, free: int, most: int, wanted: int | None = None, probabilities: bool = False) -> int:
    """Edge of the window, LR voxels: the one that is wanted, or the largest up to 32 that fits into half of the free memory.

    Args:
        network, amp, probabilities: as for `window_memory`.
        free: bytes.
        most: longest edge of what is cut into windows.
        wanted: None to choose.

    Raises:
        InputError: the memory is too little; it says how much is needed, and which setting lowers it.
    """
    largest = min(most, wanted or CORES[0])
    need = window_memory(network, largest, amp, probabilities)
    if need <= (free if wanted else free / 2):
        return largest
    smaller = next((core for core in CORES if core < largest and window_memory(network, core, amp, probabilities) <= free / 2), None)
    if smaller is None or wanted:
        advice = f"set core to {smaller}, or to null" if smaller else "free memory, or run fewer processes"
        raise InputError(f"core: a window of {largest} LR voxels needs {size_text(need)} of memory, {size_text(free)} are free; {advice}")
    return smaller


def size_text(n_bytes: float) -> str:
    """In MiB or GiB, two digits."""
    gib = n_bytes / 2**30
    if gib < 0.01:
        return f"{n_bytes / 2**20:.2g} MiB"
    return f"{gib:.2g} GiB" if gib < 100 else f"{gib:,.0f} GiB"


class LiveBytes(TorchDispatchMode):
    """Adds up what the tensors made under it take: `live` now, `peak` at most."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
