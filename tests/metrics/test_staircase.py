"""Whether a surface follows the voxels of the scan."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from bundle.errors import InputError
from bundle.metrics import upsample_nearest
from bundle.metrics.staircase import staircase


def ball(n: int, radius: float) -> np.ndarray:
    at = np.indices((n,) * 3) + 0.5 - n / 2
    return ((at**2).sum(0) > radius**2).astype(np.uint8)


def scanned(fine: np.ndarray, scale: int) -> np.ndarray:
    n = fine.shape[0] // scale
    return (fine.reshape(n, scale, n, scale, n, scale).mean((1, 3, 5)) > 0.5).astype(np.uint8)


def test_repeated_voxels_follow_it_and_what_is_their_contrary_does_not():
    lr = scanned(ball(80, 30), 4)
    sr = upsample_nearest(lr, 4)
    assert staircase(lr, sr, 4)["share"] == 1
    assert staircase(lr, 1 - sr, 4)["share"] == 0
    drawn = np.random.default_rng(0).integers(0, 2, sr.shape, np.uint8)
    found = staircase(lr, drawn, 4)
    assert found["labels"] == [0, 1] and abs(found["share"] - 0.5) < 5 * 0.5 / found["voxels"] ** 0.5


def test_a_ball_follows_its_voxels_little():
    """Of a true surface most of the places are on the smooth side."""
    truth = ball(160, 61)
    assert staircase(scanned(truth, 8), truth, 8)["share"] < 0.35


@pytest.mark.parametrize("shape", [(9, 8, 10), (18, 5, 17)])
def test_it_is_what_loops_count(shape):
    """Two kinds of stone, of which one is rare; blocks that end within the volume, and a third label that hides nothing."""
    rng, scale = np.random.default_rng(1), 2
    lr = (ndimage.gaussian_filter(rng.normal(size=shape), 1.2) > 0).astype(np.uint8)
    lr[-1, -1, -1] = 2
    sr = rng.integers(0, 3, [scale * n for n in shape], np.uint8)
    wide = np.pad((lr == 0).astype(float), 2, mode="edge")
    soft = 0.5 * wide + 0.5 * ndimage.gaussian_filter(wide, 0.7, radius=1)
    parts = sides = 0
    for z, y, x in itertools.product(*(range(1, n - 1) for n in shape)):
        if set(np.unique(lr[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2])) != {0, 1}:
            continue
        for fine in itertools.product(range(scale), repeat=3):
            value, at = 0.0, [(f + 0.5) / scale - 0.5 for f in fine]  # from the centre of the LR voxel
            for step in itertools.product((0, 1), repeat=3):
                weight = np.prod([abs(a) if s else 1 - abs(a) for s, a in zip(step, at)])
                value += weight * soft[tuple(i + 2 + int(np.sign(a)) * s for i, s, a in zip((z, y, x), step, at))]
            found = sr[tuple(scale * i + f for i, f in zip((z, y, x), fine))]
            if (value > 0.5) != (lr[z, y, x] == 0) and found < 2:
                parts += 1
                sides += found == lr[z, y, x]
    assert parts > 10
    assert staircase(lr, sr, scale) == {"labels": [0, 1], "voxels": parts, "share": pytest.approx(sides / parts)}


def test_without_a_surface_there_is_no_share():
    assert staircase(np.zeros((4, 4, 4), np.uint8), np.zeros((8, 8, 8), np.uint8), 2) == {"labels": [0, 0], "voxels": 0, "share": None}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="not 2 times"):
        staircase(np.zeros((4, 4, 4), np.uint8), np.zeros((8, 8, 9), np.uint8), 2)
    with pytest.raises(InputError, match="3D"):
        staircase(np.zeros((4, 4), np.uint8), np.zeros((8, 8), np.uint8), 2)
