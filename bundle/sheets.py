"""Contact sheets: many label images in one picture, to be looked at side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from bundle.report import PHASE_COLOURS, colour_labels, save_figure

COLUMNS = 4  # images in a row of a sheet


def write_sheets(path: str | os.PathLike, sheets: Mapping[str, Sequence[np.ndarray]], phases: Sequence[str]) -> None:
    """Write a PNG with a sheet for each title, side by side, every pixel of the images shown.

    Args:
        path: of the PNG.
        sheets: title -> label images (y, x) of one size, in rows of four.
        phases: names in label order, for the legend.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    pictures = {title: _sheet(images) for title, images in sheets.items()}
    height, width = np.max([picture.shape[:2] for picture in pictures.values()], axis=0)
    dpi = 100
    figure = Figure(figsize=(len(pictures) * width * 1.04 / dpi, (height + 70) / dpi), dpi=dpi, layout="constrained")
    for panel, (title, picture) in zip(figure.subplots(1, len(pictures), squeeze=False)[0], pictures.items()):
        panel.imshow(picture, interpolation_stage="rgba")
        panel.set_title(title)
        panel.axis("off")
    patches = [Patch(facecolor=PHASE_COLOURS[i % len(PHASE_COLOURS)], edgecolor="grey", label=phase) for i, phase in enumerate(phases)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(phases), frameon=False)
    save_figure(figure, path)


def _sheet(images: Sequence[np.ndarray]) -> np.ndarray:
    """Coloured images in rows of four with white lines between them, (y, x, 3)."""
    tiles = [np.pad(colour_labels(np.asarray(image)), ((0, 4), (0, 4), (0, 0)), constant_values=255) for image in images]
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % min(COLUMNS, len(tiles)))
    columns = min(COLUMNS, len(tiles))
    return np.concatenate([np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)])
