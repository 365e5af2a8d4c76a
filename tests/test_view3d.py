"""Surfaces of a phase: where they lie, their area, and that they are seen in the picture."""

import io

import numpy as np
import pytest
from PIL import Image

from bundle import view3d
from bundle.errors import InputError
from bundle.io import Volume
from bundle.view3d import middle, phase_to_draw, surfaces_png
from bundle.view3d_draw import surface


def ball(n: int, radius: float) -> np.ndarray:
    """(z, y, x), the centre a quarter of the way along z."""
    z, y, x = np.indices((n, n, n)) + 0.5
    return ((z - n / 4) ** 2 + (y - n / 2) ** 2 + (x - n / 2) ** 2 < radius**2).astype(np.uint8)


def test_middle_is_the_same_box_of_both():
    coarse, fine = middle((60, 10, 24), (480, 80, 192))
    assert coarse == (slice(18, 42), slice(0, 10), slice(0, 24)) and fine == (slice(144, 336), slice(0, 80), slice(0, 192))
    assert all(8 * c.start == f.start and 8 * c.stop == f.stop for c, f in zip(coarse, fine, strict=True))


def test_surface_lies_in_micrometres_in_the_order_of_the_axes():
    pytest.importorskip("pyvista")
    found = surface(ball(40, 8) == 1, (1.0, 0.5, 2.0))
    x0, x1, y0, y1, z0, z1 = found.bounds
    np.testing.assert_allclose([(z0 + z1) / 2, (y0 + y1) / 2, (x0 + x1) / 2], [10.0, 10.0, 40.0], atol=0.5)
    np.testing.assert_allclose([z1 - z0, y1 - y0, x1 - x0], [16, 8, 32], rtol=0.1)


def test_volume_inside_is_that_of_the_voxels():
    pytest.importorskip("pyvista")
    mask = ball(40, 8) == 1
    assert surface(mask, (0.5,) * 3).volume == pytest.approx(mask.sum() * 0.125, rel=0.05)


def test_picture_shows_the_phase_on_both_sides():
    pytest.importorskip("pyvista")
    lr = ball(16, 5)
    sr = lr.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    try:
        png = surfaces_png(Volume(lr, (2.0,) * 3), Volume(sr, (1.0,) * 3), 1, ("LR", "SR"))
    except InputError as error:
        if "cannot draw" in str(error):
            pytest.skip(f"no OpenGL here: {error}")
        raise
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    half = picture.shape[1] // 2
    # of phase 1, tan: more red than blue
    shares = [np.mean(part[..., 0] - part[..., 2] > 20) for part in (picture[:, :half], picture[:, half:])]
    assert min(shares) > 0.03 and shares[0] == pytest.approx(shares[1], rel=0.3)
    assert (picture[5, half - 5] == 255).all()  # white around
    empty = surfaces_png(Volume(lr, (2.0,) * 3), Volume(sr, (1.0,) * 3), 2, ("LR", "SR"))  # no voxel of it: an empty box
    colourful = np.asarray(Image.open(io.BytesIO(empty)).convert("RGB")).astype(int)
    assert np.abs(colourful[..., 0] - colourful[..., 2]).max() < 20


def test_a_machine_that_cannot_draw_is_one_line(monkeypatch):
    pytest.importorskip("pyvista")
    monkeypatch.setattr(view3d.sys, "executable", "/bin/false")
    with pytest.raises(InputError, match="cannot draw on this machine"):
        surfaces_png(Volume(ball(8, 2), (1.0,) * 3), Volume(ball(8, 2), (1.0,) * 3), 1, ("LR", "SR"))


def test_which_phase(monkeypatch):
    monkeypatch.setattr(view3d, "find_spec", lambda name: object())
    assert [phase_to_draw(v, ["pore", "clay"]) for v in (True, "true", "clay", False, "false")] == ["pore", "pore", "clay", None, None]
    with pytest.raises(InputError, match="salt is neither true, false nor one of the phases pore, clay"):
        phase_to_draw("salt", ["pore", "clay"])
    monkeypatch.setattr(view3d, "find_spec", lambda name: None)
    assert phase_to_draw(False, ["pore"]) is None
    with pytest.raises(InputError, match="pip install"):
        phase_to_draw(True, ["pore"])
