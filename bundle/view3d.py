"""Surfaces of a phase in LR and SR side by side, drawn off the screen by PyVista in a process of its own.

A process of its own, as VTK ends the whole program where a machine has no OpenGL at all.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bundle.errors import InputError, switch
from bundle.io import Volume
from bundle.report import PHASE_COLOURS

MAX_EDGE = 192  # fine voxels: a larger volume shows more than the eye can follow
TIMEOUT = 600  # seconds
INSTEAD_OF_BLACK = "#7890a8"  # on black no shading would be seen


def check_installed() -> None:
    """Whether PyVista is there, before the long work.

    Raises:
        InputError: it is not.
    """
    if find_spec("pyvista") is None:
        raise InputError("view3d needs pyvista: pip install -e '.[view]', or set view3d to false")


def phase_to_draw(view3d: bool | str, phases: Sequence[str]) -> str | None:
    """The phase that the setting asks for: true is the first, false None.

    Raises:
        InputError: no such phase; PyVista is not installed.
    """
    if view3d in phases:
        found = view3d
    else:
        try:
            found = phases[0] if switch(view3d, "view3d") else None
        except InputError:
            raise InputError(f"view3d: {view3d} is neither true, false nor one of the phases {', '.join(phases)}") from None
    if found is not None:
        check_installed()
    return found


def surfaces_png(lr: Volume, sr: Volume, label: int, titles: Sequence[str], unit: str = "µm") -> bytes:
    """PNG of the surfaces of a phase in the middle of LR and SR, from one angle; where the phase meets the border of the part shown it is cut open.

    Args:
        lr: labels (z, y, x) and voxel size.
        sr: labels a whole number of times finer, of the same box; the array may be one on disk that gives arrays for slices.
        label: of the phase.
        titles: written above the two, with the edges of the box behind.
        unit: of the voxel sizes.

    Raises:
        InputError: PyVista is not installed, or cannot draw on this machine.
    """
    check_installed()
    colour = PHASE_COLOURS[label % len(PHASE_COLOURS)]
    coarse, fine = middle(lr.array.shape, sr.array.shape)
    edges = " x ".join(f"{(part.stop - part.start) * size:.4g}" for part, size in zip(coarse, lr.voxel_size, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        given, drawn = Path(folder) / "masks.npz", Path(folder) / "surfaces.png"
        np.savez_compressed(
            given,
            masks_0=_read(lr.array, coarse) == label,
            masks_1=_read(sr.array, fine) == label,
            sizes=np.array([lr.voxel_size, sr.voxel_size]),
            colour=INSTEAD_OF_BLACK if colour == "#000000" else colour,
            titles=[f"{title}, box of {edges} {unit} (z, y, x)" for title in titles],
        )
        script = Path(__file__).with_name("view3d_draw.py")
        command = [sys.executable, "-P", str(script), str(given), str(drawn)]  # -P: no module of this folder is taken for one of Python
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            raise InputError(f"view3d: PyVista has not drawn in {TIMEOUT} s; set view3d to false") from None
        if done.returncode or not drawn.is_file():
            said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
            said = re.sub(r"\x1b\[[0-9;]*m", "", said).split("WARN| ")[-1][:200]  # VTK colours its lines
            raise InputError(f"view3d: PyVista cannot draw on this machine ({said}); install Mesa (libegl1 libgl1-mesa-dri), or set view3d to false")
        return drawn.read_bytes()


def middle(lr_shape: Sequence[int], sr_shape: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of the middle of LR and, of the same box, of SR: at most `MAX_EDGE` fine voxels an edge, whole coarse ones."""
    coarse, fine = [], []
    for n, n_fine in zip(lr_shape, sr_shape, strict=True):
        scale = n_fine // n
        edge = min(n, max(1, MAX_EDGE // scale))
        start = (n - edge) // 2
        coarse.append(slice(start, start + edge))
        fine.append(slice(scale * start, scale * (start + edge)))
    return tuple(coarse), tuple(fine)


def _read(array: Any, box: tuple[slice, ...]) -> np.ndarray:
    return np.asarray(array[box])
