"""Contact sheets: where each image lies, in the colours of its labels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from bundle import report, sheets


def test_images_lie_in_rows_of_four_pixel_by_pixel(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(sheets, "save_figure", lambda figure, path: drawn.append(figure))
    images = np.random.default_rng(0).integers(0, 3, (6, 20, 30)).astype(np.uint8)
    sheets.write_sheets(tmp_path / "sheet.png", {"made": images, "real": images[:1]}, ["pore", "grain", "clay"])
    left, right = drawn[0].axes
    assert (left.get_title(), right.get_title()) == ("made", "real")
    picture = np.asarray(left.get_images()[0].get_array())
    assert picture.shape == (2 * 24, 4 * 34, 3) and np.asarray(right.get_images()[0].get_array()).shape == (24, 34, 3)
    for i, image in enumerate(images):
        row, column = 24 * (i // 4), 34 * (i % 4)
        assert np.array_equal(picture[row : row + 20, column : column + 30], report.colour_labels(image))
        assert (picture[row + 20 : row + 24, column : column + 34] == 255).all() and (picture[row : row + 24, column + 30 : column + 34] == 255).all()
    assert (picture[24:, 2 * 34 :] == 255).all()
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["pore", "grain", "clay"]


def test_the_file_shows_every_pixel(tmp_path):
    sheets.write_sheets(tmp_path / "sheet.png", {"one": np.zeros((4, 100, 100), np.uint8)}, ["pore"])
    picture = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    pore = np.abs(picture - report.colour_labels(np.zeros((1, 1), np.uint8))[0, 0]).sum(2) == 0
    assert pore.any(0).sum() >= 4 * 100  # columns that show it
