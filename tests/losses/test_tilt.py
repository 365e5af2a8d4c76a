"""Weights that make a sample hold what it should hold: closed forms, and the conditions of Lagrange."""

import pytest
import torch

from bundle.losses.tilt import tilted


def test_tilted_weights_of_two_kinds():
    """Three rows of one kind and one of the other, wanted half and half: a sixth each, and a half."""
    shares = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    assert tilted(shares, torch.tensor([0.5, 0.5])).tolist() == pytest.approx([1 / 6] * 3 + [1 / 2], abs=1e-4)
    assert tilted(shares, torch.tensor([0.75, 0.25])).tolist() == pytest.approx([1 / 4] * 4, abs=1e-6)


def test_tilted_weights_are_the_nearest_to_equal():
    """Least relative entropy under a linear constraint: the constraint holds and log w is affine in the shares (Lagrange)."""
    shares = torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = shares / shares.sum(1, keepdim=True)
    wanted = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    weights = tilted(shares, wanted)
    assert float(weights.sum()) == pytest.approx(1) and weights.min() > 0
    assert (weights @ shares).tolist() == pytest.approx(wanted.tolist(), abs=1e-4)
    assert (shares.mean(0) - wanted).abs().max() > 0.1  # equal weights would not do
    affine = torch.cat([shares[:, 1:], torch.ones(50, 1, dtype=torch.float64)], 1)  # the shares add up to one: a column less
    fitted = affine @ torch.linalg.lstsq(affine, weights.log()[:, None]).solution
    torch.testing.assert_close(fitted[:, 0], weights.log(), rtol=0, atol=1e-6)


def test_tilted_weights_do_what_they_can():
    """No weights give more than the largest share: they go there, and stay finite."""
    shares = torch.linspace(0.1, 0.6, 11)
    weights = tilted(torch.stack([shares, 1 - shares], 1), torch.tensor([0.9, 0.1]))
    assert weights.isfinite().all() and float(weights.sum()) == pytest.approx(1)
    assert float(weights @ shares.double()) > 0.55
