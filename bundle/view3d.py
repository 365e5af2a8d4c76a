"""Surfaces of a phase in LR and SR side by side, drawn off the screen by PyVista in a process of its own.

A process of its own, as VTK ends the whole program where a machine has no OpenGL at all.
"""

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
WINDOW = (1180, 620)
TIMEOUT = 600  # seconds
PORE_COLOUR = "#7890a8"  # on black no shading would be seen


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


def surfaces_png(lr: Volume, sr: Volume, label: int, titles: Sequence[str] = ("LR", "SR")) -> bytes:
    """PNG of the surfaces of a phase in the middle of LR and SR, from one angle; where the phase meets the border of the part shown it is cut open.

    Args:
        lr: labels (z, y, x) and voxel size.
        sr: labels a whole number of times finer, of the same box; the array may be one on disk that gives arrays for slices.
        label: of the phase.
        titles: written above the two.

    Raises:
        InputError: PyVista is not installed, or cannot draw on this machine.
    """
    check_installed()
    coarse, fine = middle(lr.array.shape, sr.array.shape)
    with tempfile.TemporaryDirectory() as folder:
        given, drawn = Path(folder) / "masks.npz", Path(folder) / "surfaces.png"
        np.savez_compressed(
            given,
            masks_0=_read(lr.array, coarse) == label,
            masks_1=_read(sr.array, fine) == label,
            sizes=np.array([lr.voxel_size, sr.voxel_size]),
            colour=PHASE_COLOURS[label % len(PHASE_COLOURS)] if label else PORE_COLOUR,
            titles=list(titles),
        )
        command = [sys.executable, "-m", "bundle.view3d", str(given), str(drawn)]
        root = Path(__file__).resolve().parents[1]
        try:
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            raise InputError(f"view3d: PyVista has not drawn in {TIMEOUT} s; set view3d to false") from None
        if done.returncode or not drawn.is_file():
            said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
            raise InputError(f"view3d: PyVista cannot draw on this machine ({said[:200]}); install Mesa (libegl1), or set view3d to false")
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


def surface(mask: np.ndarray, voxel_size: Sequence[float]) -> Any:
    """The surface of a phase as triangles (PyVista PolyData, x, y, z in µm), through the middle between voxel centres (flying edges).

    Args:
        mask: bool (z, y, x).
        voxel_size: (z, y, x).
    """
    import pyvista

    grid = pyvista.ImageData(dimensions=mask.shape[::-1], spacing=voxel_size[::-1], origin=[v / 2 for v in voxel_size[::-1]])
    grid.point_data["phase"] = mask.astype(np.uint8).ravel()  # z, y, x in C order: x runs fastest, as in VTK
    return grid.contour([0.5], scalars="phase", method="flying_edges")


def _draw(given: str, drawn: str) -> None:
    """What the process of its own does."""
    import pyvista

    data = np.load(given)
    pyvista.OFF_SCREEN = True
    plotter = pyvista.Plotter(shape=(1, 2), off_screen=True, window_size=WINDOW, border=False)
    for i, (title, size) in enumerate(zip(data["titles"], data["sizes"], strict=True)):
        mask = data[f"masks_{i}"]
        plotter.subplot(0, i)
        found = surface(mask, size.tolist())
        if found.n_cells:
            plotter.add_mesh(found, color=str(data["colour"]), smooth_shading=False, specular=0.2)
        box = [edge for axis in (2, 1, 0) for edge in (0.0, mask.shape[axis] * size[axis])]
        plotter.add_mesh(pyvista.Box(box), style="wireframe", color="black", line_width=1)
        plotter.add_text(str(title), font_size=11, color="black")
    plotter.background_color = "white"
    plotter.link_views()
    plotter.view_isometric()
    plotter.screenshot(drawn)


if __name__ == "__main__":
    _draw(*sys.argv[1:])
