"""Patches lie anywhere, with the border repeated around."""

from __future__ import annotations

import numpy as np
import torch

from bundle.transforms.patches import RandPatchd


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
