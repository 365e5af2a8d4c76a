"""Windows: cut, covered, enlarged."""

import pytest
import torch
from torch.nn import functional as F

from bundle.networks.windows import blocks, crop, doubled, trimmed


@pytest.mark.parametrize("channels_last", [False, True])
def test_doubled_is_the_inside_of_trilinear_interpolation(channels_last):
    x = torch.randn(2, 3, 5, 4, 3, dtype=torch.float64, requires_grad=True)
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    result = doubled(x.contiguous(memory_format=layout))
    expected = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)[:, :, 2:-2, 2:-2, 2:-2]
    torch.testing.assert_close(result, expected)
    weight = torch.randn_like(result)
    torch.testing.assert_close(torch.autograd.grad(result, x, weight)[0], torch.autograd.grad(expected, x, weight)[0])


def test_doubled_in_half_precision_stays_there():
    x = torch.randn(1, 4, 6, 6, 6)
    result = doubled(x.to(torch.bfloat16))
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), doubled(x), atol=0.03, rtol=0.02)


@pytest.mark.parametrize("edge", [1, 2, 4, 9])
def test_blocks_cover_a_box_once(edge):
    covered = torch.zeros(1, 1, 4, 3, 7)
    for start, shape in blocks([4, 3, 7], edge):
        assert max(shape) <= edge
        part = crop(covered, start, shape)
        assert list(part.shape[2:]) == shape
        part += 1
    assert (covered == 1).all()


def test_trimmed_takes_from_every_side():
    x = torch.arange(5 * 6 * 7).view(1, 1, 5, 6, 7)
    assert torch.equal(trimmed(x, 2), x[:, :, 2:-2, 2:-2, 2:-2])
