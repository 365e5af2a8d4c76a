"""Draws the surfaces of `bundle.view3d`, a program of its own that imports nothing of the bundle, so that it starts at once."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

WINDOW = (1180, 620)  # pixels


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
        plotter.add_text(str(title), font_size=10, color="black")
    plotter.background_color = "white"
    plotter.link_views()
    plotter.view_isometric()
    plotter.screenshot(drawn)


if __name__ == "__main__":
    _draw(*sys.argv[1:])
