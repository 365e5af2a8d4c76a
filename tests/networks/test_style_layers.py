"""Layers of the generator of images: modulated convolutions against loops, changes of resolution, equalised rates."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bundle.networks.style_layers import ModulatedConv, ScaledConv, ScaledLinear, downsampling_conv, upsampling_conv


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("demodulate", [True, False])
def test_a_modulated_convolution_has_weights_of_its_own_for_each_sample(demodulate):
    layer = ModulatedConv(5, 4, 3, 6, demodulate=demodulate).double()
    x, w = torch.randn(3, 5, 7, 7, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    found = layer(x, w)
    for n in range(3):
        style = layer.style.weight @ w[n] / np.sqrt(6) + layer.style.bias
        weight = layer.weight / np.sqrt(5 * 9) * style[None, :, None, None]  # eq. 1
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()  # eq. 3
        torch.testing.assert_close(found[n], F.conv2d(x[n : n + 1], weight, padding=1)[0])


def test_a_modulated_convolution_that_doubles_the_resolution_has_them_too():
    layer = ModulatedConv(5, 4, 3, 6, up=True, cut=2).double()
    x, w = torch.randn(2, 5, 6, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    found = layer(x, w)
    assert found.shape == (2, 4, 8, 8)
    for n in range(2):
        weight = layer.weight / np.sqrt(5 * 9) * layer.style(w[n : n + 1])[0][None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        finer = F.interpolate(x[n : n + 1], scale_factor=2, mode="bilinear", align_corners=False)
        wanted = F.conv2d(finer, weight, padding=1)[0, :, 2:-2, 2:-2]
        torch.testing.assert_close(found[n, :, 1:-1, 1:-1], wanted[:, 1:-1, 1:-1])


@pytest.mark.parametrize("kernel", [1, 3])
def test_upsampling_is_linear_interpolation_then_convolution(kernel):
    x, weight = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.randn(5, 3, kernel, kernel, dtype=torch.float64)
    wanted = F.conv2d(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), weight, padding=kernel // 2)
    found = upsampling_conv(x, weight)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found[..., 3:-3, 3:-3], wanted[..., 3:-3, 3:-3])
    torch.testing.assert_close(upsampling_conv(x, weight, 2), found[..., 2:-2, 2:-2])


@pytest.mark.parametrize("kernel", [1, 3])
def test_downsampling_is_a_low_pass_then_a_convolution_at_every_second_pixel(kernel):
    x, weight = torch.randn(2, 3, 12, 12, dtype=torch.float64), torch.randn(5, 3, kernel, kernel, dtype=torch.float64)
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    smooth = F.conv2d(F.pad(x, (4,) * 4), torch.outer(line, line).expand(3, 1, 4, 4), groups=3)
    # smooth pixel i lies between pixels i - 3 and i - 2 of x; the first pixel that is kept is the middle of pixels 0 and 1 of x
    wanted = F.conv2d(smooth[..., 3 - kernel // 2 :, 3 - kernel // 2 :], weight, stride=2)
    found = downsampling_conv(x, weight)
    assert found.shape == (2, 5, 6, 6)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], wanted[..., 1:5, 1:5])


def test_the_constant_stays_a_constant_through_both():
    x = torch.ones(1, 2, 16, 16)
    weight = torch.randn(3, 2, 3, 3)
    for layer in (upsampling_conv, downsampling_conv):
        middle = layer(x, weight)[0, :, 4:-4, 4:-4] if layer is upsampling_conv else layer(x, weight)[0, :, 2:-2, 2:-2]
        torch.testing.assert_close(middle, weight.sum((1, 2, 3))[:, None, None].expand_as(middle))


def test_equalised_rate():
    layer = ScaledLinear(4, 3, bias=1.0, rate=0.01)
    x = torch.randn(2, 4)
    torch.testing.assert_close(layer(x), x @ (layer.weight * 0.01 / 2).T + 1.0)
    wide = ScaledLinear(400, 300, rate=0.01)
    assert abs(float((wide.weight * 0.01).std()) - 1) < 0.02  # what is learned has the variance 1, at whatever rate


@pytest.mark.parametrize("down", [False, True])
def test_a_convolution_adds_its_bias(down):
    torch.manual_seed(0)
    layer, x = ScaledConv(2, 3, 3, down=down), torch.randn(1, 2, 8, 8)
    without = layer(x)
    layer.bias.data = torch.tensor([1.0, -2.0, 3.0])
    torch.testing.assert_close(layer(x), without + torch.tensor([1.0, -2.0, 3.0])[:, None, None])
