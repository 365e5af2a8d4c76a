"""Down-sampling against loops and torch's interpolation."""

import numpy as np
import pytest
import torch

from bundle.transforms.downsample import Downsampled, block_mean, nearest, phase_shares


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


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("size", [(4, 8, 12), (8, 4)], ids=["3D", "2D"])
def test_nearest_is_torch_s(size, factor):
    x = torch.rand(2, 3, *size)
    expected = torch.nn.functional.interpolate(x, size=[n // factor for n in size], mode="nearest")
    assert torch.equal(nearest(x, factor), expected)
    assert torch.equal(nearest(x, factor)[(0, 0, *[0] * len(size))], x[(0, 0, *[0] * len(size))])


def test_dictionary_transform():
    image = torch.randint(0, 4, (1, 4, 4, 4), dtype=torch.uint8)
    data = {"image": image, "other": image, "name": "a"}
    mean = Downsampled(["image"], 2)(data)
    assert mean["image"].dtype == torch.float32
    torch.testing.assert_close(mean["image"], image.float().reshape(1, 2, 2, 2, 2, 2, 2).mean((2, 4, 6)))
    assert mean["other"] is image and mean["name"] == "a"
    labels = Downsampled(["image"], 4, mode="nearest")(data)["image"]
    assert labels.dtype == torch.uint8  # labels stay labels
    assert torch.equal(labels, image[:, :1, :1, :1])
    assert data["image"] is image  # the input is not changed
    slices = Downsampled("image", 2)({"image": np.ones((3, 4, 6), np.uint8)})["image"]
    assert slices.shape == (3, 2, 3)


def test_keys_and_modes_are_checked():
    with pytest.raises(KeyError):
        Downsampled("image", 2)({})
    assert Downsampled("image", 2, allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError):
        Downsampled("image", 2, mode="median")
