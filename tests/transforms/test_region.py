"""A region is cut with its place in space, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bundle.errors import InputError
from bundle.transforms.region import CropRegiond


def lr_volume() -> MetaTensor:
    values = torch.arange(4 * 5 * 6, dtype=torch.uint8).reshape(1, 4, 5, 6)
    return MetaTensor(values, affine=torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0], dtype=torch.float64)))


def test_region_is_cropped_with_its_place():
    volume = lr_volume()
    result = CropRegiond("image", [[1, 3], [0, 5], [2, 6]])({"image": volume})["image"]
    np.testing.assert_array_equal(result.numpy(), volume.numpy()[:, 1:3, 0:5, 2:6])
    np.testing.assert_allclose(result.affine[:3, 3], [4.0, 0.0, 8.0])
    np.testing.assert_allclose(result.pixdim, [4.0] * 3)


def test_no_region_is_all():
    volume = lr_volume()
    assert torch.equal(CropRegiond("image", None)({"image": volume})["image"], volume)


@pytest.mark.parametrize(
    "region",
    [[[0, 5], [0, 5], [0, 6]], [[-1, 3], [0, 5], [0, 6]], [[2, 2], [0, 5], [0, 6]], [[3, 1], [0, 5], [0, 6]], [[0, 4], [0, 5]], [0, 4], "all",
     [[0, 4], [0, 5], [0]]],
)  # fmt: skip
def test_a_region_outside_the_volume_is_refused(region):
    with pytest.raises(InputError, match=r"lr_region.*\(4, 5, 6\)"):
        CropRegiond("image", region)({"image": lr_volume()})
