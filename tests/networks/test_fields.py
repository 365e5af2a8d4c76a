"""Kernels of noise fields: unit variance, alike in all directions, apart from each other."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bundle.networks.fields import SmoothNoise, blurred, by_axes, shells, softened, waves
from bundle.networks.windows import doubled


def turned(kernel: Tensor) -> list[Tensor]:
    """The generators of the 48 symmetries of the cube."""
    return [kernel.flip(0), kernel.flip(1), kernel.transpose(0, 1), kernel.transpose(1, 2)]


def test_shells_are_fields_of_unit_variance_apart_from_each_other():
    kernels = shells(10)[:, 0].double().flatten(1)
    torch.testing.assert_close(kernels @ kernels.T, torch.eye(10, dtype=torch.float64), rtol=0, atol=1e-6)
    for kernel in shells(10)[:, 0]:
        assert all(torch.equal(other, kernel) for other in turned(kernel))
    with pytest.raises(ValueError, match="11 are named, at most 10"):
        shells(11)


def test_waves_are_smooth_fields_of_unit_variance_apart_from_each_other():
    kernels = waves(4, 5)
    flat = kernels[:, 0].double().flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-5)
    for kernel in kernels[:, 0]:
        for other in turned(kernel):
            torch.testing.assert_close(other, kernel, rtol=0, atol=1e-6)
    field = F.conv3d(torch.randn(1, 1, 40, 40, 40, generator=torch.Generator().manual_seed(0)), kernels[:1])[0, 0]
    # the first is a Gaussian of standard deviation radius / 2; of the field it makes, neighbours agree as exp(-1 / (4 sigma^2))
    neighbours = torch.corrcoef(torch.stack([field[1:].flatten(), field[:-1].flatten()]))[0, 1].item()
    assert neighbours == pytest.approx(math.exp(-1 / (4 * 2.5**2)), abs=0.02)


@pytest.mark.parametrize(("number", "radius", "lines"), [(1, 1, 1), (4, 5, 4), (5, 16, 5)])
def test_kernels_by_axes_are_the_solid_ones(number, radius, lines):
    """Waves are sums of products of `lines` Gaussians with even polynomials along each axis."""
    kernels = waves(number, radius)
    along_z, along_y, along_x = by_axes(kernels)
    d = 2 * radius + 1
    assert [tuple(k.shape) for k in (along_z, along_y, along_x)] == [
        (lines, 1, d, 1, 1),
        (number * lines, lines, 1, d, 1),
        (number, lines, 1, 1, d),
    ]
    impulse = torch.zeros(1, 1, *[2 * d - 1] * 3)
    impulse[..., d - 1, d - 1, d - 1] = 1
    found = F.conv3d(F.conv3d(F.conv3d(impulse, along_z), along_y), along_x, groups=number)
    torch.testing.assert_close(found[0], kernels[:, 0].flip(1, 2, 3), rtol=0, atol=1e-6)


def test_smooth_noise_leaves_the_smoothest_wave_to_the_hidden_phases():
    noise = torch.randn(2, 1, 30, 31, 32, generator=torch.Generator().manual_seed(0))
    found = SmoothNoise(3, 4)(noise)
    solid = F.conv3d(noise.double(), waves(4, 4).double())
    torch.testing.assert_close(found.double(), solid[:, 1:], rtol=0, atol=1e-5)
    flat = waves(4, 4).double().flatten(1)
    torch.testing.assert_close(flat[1:] @ flat[0], torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_softened_is_a_gaussian_and_the_voxel_itself(share):
    near = math.exp(-1 / (2 * 0.7**2))
    line = {0: 1 / (1 + 2 * near), 1: near / (1 + 2 * near)}
    x = torch.rand(2, 3, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = (1 - share) * x[:, :, 1:-1, 1:-1, 1:-1]
    for z, y, x_ in itertools.product((0, 1, 2), repeat=3):
        weight = math.prod(line[abs(i - 1)] for i in (z, y, x_))
        expected += share * weight * x[:, :, z : z + 2, y : y + 3, x_ : x_ + 4]
    torch.testing.assert_close(softened(x, torch.tensor(share, dtype=torch.float64)), expected, rtol=0, atol=1e-12)


def test_what_blurred_noise_decides_does_not_stand_in_rows():
    """Peaks of noise that is enlarged twice: white noise has them at the inner two of the four places of each of its voxels, blurred noise less so."""
    noise = torch.randn(1, 1, 40, 40, 40, generator=torch.Generator().manual_seed(0))
    inner = []
    for blur in (0.0, 1.0):
        x = doubled(doubled(blurred(noise, torch.tensor(blur))))[0, 0]
        assert blurred(noise, torch.tensor(blur)).var().item() == pytest.approx(1, abs=0.02)
        peaks = (x == F.max_pool3d(x[None, None], 3, 1, 1)[0, 0]) & (x > x.mean() + 1.5 * x.std())
        places = peaks[1:-1, 1:-1, 1:-1].nonzero() + 1
        inner.append(torch.isin((places - 2) % 4, torch.tensor([1, 2])).float().mean().item())
    assert inner[0] > 0.74 and inner[1] < 0.68  # by chance half; about 1,000 peaks along three axes
