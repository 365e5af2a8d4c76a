"""The coordinate noise: standard normal, white, and a function of seed, scale and position alone."""

import numpy as np
import pytest
import torch
from scipy import stats

from bundle.networks.noise import coordinate_noise

MASK = 0xFFFFFFFF
SHAPE = (48, 50, 52)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return coordinate_noise(7, 4, (-20, 3, 1000), SHAPE).numpy()


def finaliser(h: int) -> int:
    """MurmurHash3's fmix32 with Python's integers."""
    h = (h ^ (h >> 16)) * 0x85EBCA6B & MASK
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & MASK
    return h ^ (h >> 16)


def slow_noise(seed: int, scale: int, position: tuple[int, int, int]) -> float:
    """One voxel, with the normal quantiles of scipy in place of the table."""
    keys = []
    for axis, p in enumerate(position):
        p %= 1 << 64
        key = finaliser((p + 0x9E3779B9 * (axis + 1)) & MASK) ^ (p >> 32)
        for word in (seed & MASK, (seed >> 32) & MASK, scale * 4 + axis):
            key = finaliser((key + word) & MASK)
        keys.append(key)
    h = finaliser(((keys[0] + keys[1]) & MASK) ^ keys[2])
    return stats.norm.ppf(((h >> 16) + 0.5) / 2**16)


@pytest.mark.parametrize(
    ("seed", "scale", "start"),
    [(0, 1, (0, 0, 0)), (3, 8, (-2, -1, -3)), (2**40 + 5, 2, (5, 2**31 - 1, 2**32 - 1)), (2**63 - 1, 4, (2**33, -(2**35), 17))],
)
def test_equals_a_slow_reimplementation(seed, scale, start):
    values = coordinate_noise(seed, scale, start, (3, 2, 3))
    for index in np.ndindex(3, 2, 3):
        position = tuple(s + i for s, i in zip(start, index))
        # the table is scaled to unit variance: 1 part in 10^5
        assert float(values[index]) == pytest.approx(slow_noise(seed, scale, position), rel=1e-4)


def test_type_and_shape():
    values = coordinate_noise(1, 2, (0, 0, 0), (2, 3, 5))
    assert values.dtype == torch.float32
    assert tuple(values.shape) == (2, 3, 5)


def test_standard_normal(noise):
    n = noise.size
    assert abs(noise.mean()) < 4 / n**0.5
    assert abs(noise.var() - 1) < 4 * (2 / n) ** 0.5
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert np.abs(noise).max() < 4.4  # the tails end at the quantile of 2^-17


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_plane_line_and_voxel_is_its_own(noise, axis):
    """Means along an axis scatter as those of independent values do: no axis contributes a component of its own."""
    means = noise.mean(axis)
    assert abs(means.var() * SHAPE[axis] - 1) < 5 * (2 / means.size) ** 0.5
    others = tuple(a for a in range(3) if a != axis)
    means = noise.mean(others) * (noise.size / SHAPE[axis]) ** 0.5
    assert stats.kstest(means, "norm").pvalue > 1e-3


def test_neighbours_are_independent(noise):
    spectrum = np.abs(np.fft.fftn(noise)) ** 2 / noise.size
    correlation = np.fft.ifftn(spectrum).real
    correlation[0, 0, 0] = 0
    assert np.abs(correlation).max() < 6 / noise.size**0.5  # of all 124,800 lags in every direction
    squared = noise**2 - (noise**2).mean()  # linear independence of the magnitudes too
    for axis in range(3):
        near = (squared * np.roll(squared, 1, axis)).mean() / squared.var()
        assert abs(near) < 5 / noise.size**0.5


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_seeds_and_scales_are_independent():
    box = ((0, 0, 0), (32, 32, 32))
    fields = [coordinate_noise(seed, scale, *box) for seed, scale in [(0, 1), (1, 1), (2**32, 1), (0, 2), (0, 4), (0, 8), (1, 2), (2, 1)]]
    for i, a in enumerate(fields):
        for b in fields[:i]:
            assert abs(correlation(a, b)) < 5 / a.numel() ** 0.5


def test_axes_are_not_interchangeable():
    """The same three coordinates in another order are another voxel."""
    start = (0, 40, 80)
    cube = coordinate_noise(5, 1, start, (32, 32, 32))
    for order in ((0, 2, 1), (1, 0, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)):
        exchanged = coordinate_noise(5, 1, tuple(start[a] for a in order), (32, 32, 32)).permute(*np.argsort(order))
        assert abs(correlation(cube, exchanged)) < 5 / cube.numel() ** 0.5


@pytest.mark.parametrize("start", [(0, 0, 0), (-7, -3, -11), (2**31 - 4, 2**32 - 4, -3), (2**40, 2**35, 2**31)])
def test_depends_on_the_position_alone(start):
    box = coordinate_noise(9, 8, start, (9, 10, 11))
    inner = coordinate_noise(9, 8, (start[0] + 2, start[1] + 5, start[2] + 1), (4, 5, 9))
    assert torch.equal(inner, box[2:6, 5:, 1:10])


def test_positions_beyond_32_bits_do_not_repeat():
    origin = coordinate_noise(0, 1, (0, 0, 0), (8, 8, 8))
    for start in ((2**32, 0, 0), (0, 2**32, 0), (0, 0, 2**32), (0, 0, -(2**32))):
        assert abs(correlation(origin, coordinate_noise(0, 1, start, (8, 8, 8)))) < 0.25


def test_slabs_are_one_noise(noise, monkeypatch):
    """Three planes at a time, the last slab thinner, as all at once (which is one slab)."""
    monkeypatch.setattr("bundle.networks.noise._SLAB", 3 * SHAPE[1] * SHAPE[2] + 1)
    shape = (SHAPE[0] - 1, *SHAPE[1:])
    np.testing.assert_array_equal(coordinate_noise(7, 4, (-20, 3, 1000), shape).numpy(), noise[:-1])
