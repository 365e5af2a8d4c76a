"""A region is cut with its place in space, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bundle.errors import InputError
from bundle.transforms.region import CropRegiond, RandPatchd


def lr_volume() -> MetaTensor:
    values = torch.arange(4 * 5 * 6, dtype=torch.uint8).reshape(1, 4, 5, 6)
    return MetaTensor(values, affine=torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0], dtype=torch.float64)))


def test_region_is_cropped_with_its_place():
    volume = lr_volume()
    result = CropRegiond("image", [[1, 3], [0, 5], [2, 6]])({"image": volume})["image"]
    np.testing.assert_array_equal(result.numpy(), volume.numpy()[:, 1:3, 0:5, 2:6])
    np.testing.assert_allclose(result.affine[:3, 3], [4.0, 0.0, 8.0])
    np.testing.assert_allclose(result.pixdim, [4.0] * 3)


def test_what_is_not_of_the_region_is_not_kept():
    result = CropRegiond("image", [[1, 3], [0, 5], [2, 6]])({"image": lr_volume()})["image"]
    assert result.untyped_storage().nbytes() == 2 * 5 * 4


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


def test_patches_lie_anywhere_and_repeat_the_border():
    """Every patch is a cube of the volume padded by its margin, and all of them come."""
    volume = torch.from_numpy(np.random.default_rng(0).integers(99, size=(2, 4, 3, 6)))
    padded = np.pad(volume.numpy(), [(0, 0), (2, 2), (2, 2), (2, 2)], mode="edge")
    starts = list(np.ndindex(4, 3, 6))
    known = {padded[:, z : z + 5, y : y + 5, x : x + 5].tobytes(): (z, y, x) for z, y, x in starts}
    assert len(known) == len(starts)
    transform, seen = RandPatchd("image", 5, 2), []
    transform.set_random_state(0)
    for _ in range(1500):
        patch = transform({"image": volume, "other": 1})
        assert patch["other"] == 1
        seen.append(known[patch["image"].numpy().tobytes()])
    assert set(seen) == set(starts)
    counts = np.array([seen.count(start) for start in starts])  # each 1500 / 72 times: five standard deviations of a Poisson number
    assert abs(counts - 1500 / 72).max() < 5 * (1500 / 72) ** 0.5
    transform.set_random_state(0)
    assert known[transform({"image": volume})["image"].numpy().tobytes()] == seen[0]


def test_of_a_large_volume_a_patch_alone_is_copied(monkeypatch):
    copied, select = [], torch.Tensor.index_select
    monkeypatch.setattr(torch.Tensor, "index_select", lambda self, *place: copied.append(select(self, *place)) or copied[-1])
    assert RandPatchd("image", 6, 2)({"image": torch.zeros(1, 60, 60, 60)})["image"].shape == (1, 6, 6, 6)
    assert len(copied) == 3 and max(part.numel() for part in copied) <= 6**3


def test_without_a_margin_patches_lie_inside():
    volume = torch.arange(64).reshape(1, 4, 4, 4)
    assert torch.equal(RandPatchd("image", 4, 0)({"image": volume})["image"], volume)
