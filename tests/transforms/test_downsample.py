"""Down-sampling against loops and torch's interpolation."""

import numpy as np
import pytest
import torch

from bundle.memory import LiveBytes
from bundle.transforms import downsample
from bundle.transforms.downsample import block_mean, coarse_labels, nearest, phase_shares


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("size", [(4, 8, 12), (8, 4)], ids=["3D", "2D"])
def test_block_mean_equals_a_loop(size, factor):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    result = block_mean(x, factor)
    assert result.shape == (2, 3, *(n // factor for n in size))
    for index in np.ndindex(*result.shape[2:]):
        block = x[(..., *(slice(factor * i, factor * (i + 1)) for i in index))]
        torch.testing.assert_close(result[(..., *index)], block.flatten(2).sum(2) / factor ** len(size))


@pytest.mark.parametrize("factor", [1, 3, 4])
def test_shares_of_the_phases_are_counts_of_labels(factor):
    """Pixels beyond the last whole block are left out, and so are phases that are not asked for."""
    labels = np.random.default_rng(0).integers(0, 5, (13, 26), dtype=np.uint8)[:, ::2]
    found = phase_shares(labels, 4, factor)
    assert found.shape == (4, 13 // factor, 13 // factor) and found.dtype == torch.float32
    for phase, y, x in np.ndindex(*found.shape):
        block = labels[factor * y : factor * y + factor, factor * x : factor * x + factor]
        assert found[phase, y, x].item() == pytest.approx((block == phase).sum() / factor**2, abs=1e-6)


@pytest.mark.parametrize("factor", [1, 3, 4])
def test_shares_of_a_mosaic_are_counted_strip_by_strip(monkeypatch, factor):
    labels = np.random.default_rng(0).integers(0, 4, (123, 50), dtype=np.uint8)
    with LiveBytes() as whole:
        expected = phase_shares(labels, 4, factor)
    monkeypatch.setattr(downsample, "STRIP", 50 * 10)
    with LiveBytes() as strips:
        found = phase_shares(labels, 4, factor)
    assert torch.equal(found, expected) and found.shape == (4, 123 // factor, 50 // factor)
    assert strips.peak - 2 * found.nbytes < 0.2 * whole.peak


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("size", [(4, 8, 12), (8, 4)], ids=["3D", "2D"])
def test_nearest_is_torch_s(size, factor):
    x = torch.rand(2, 3, *size)
    expected = torch.nn.functional.interpolate(x, size=[n // factor for n in size], mode="nearest")
    assert torch.equal(nearest(x, factor), expected)
    assert torch.equal(nearest(x, factor)[(0, 0, *[0] * len(size))], x[(0, 0, *[0] * len(size))])


@pytest.mark.parametrize("factor", [2, 3])
def test_coarse_labels_by_a_loop(factor):
    """The most frequent label; of equally frequent ones that of the first pixel, or the lowest where it is none of them."""
    labels = np.random.default_rng(1).integers(0, 4, (26, 19), dtype=np.uint8)
    found = coarse_labels(labels, 4, factor)
    assert found.dtype == np.uint8 and found.shape == (26 // factor, 19 // factor)
    for y, x in np.ndindex(*found.shape):
        block = labels[factor * y : factor * y + factor, factor * x : factor * x + factor]
        counts = np.bincount(block.ravel(), minlength=4)
        best = np.flatnonzero(counts == counts.max())
        assert found[y, x] == (block[0, 0] if block[0, 0] in best else best[0])


def test_coarse_labels_prefer_no_phase():
    """Stripes of two pixels that begin anywhere: half of the blocks hold both phases alike."""
    labels = np.stack([np.roll(np.arange(64) // 2 % 2, shift) for shift in np.random.default_rng(2).integers(0, 4, 256)]).astype(np.uint8).repeat(2, 0)
    assert coarse_labels(labels, 2, 2).mean() == pytest.approx(0.5, abs=0.01) == coarse_labels(1 - labels, 2, 2).mean()
