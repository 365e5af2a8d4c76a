"""What is held out is not trained on, and both parts hold a crop."""

from __future__ import annotations

import numpy as np
import pytest

from bundle.errors import InputError
from bundle.transforms.held_out import HELD_OUT, HoldOutd


@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (30, 30)])
def test_a_strip_at_the_end_of_the_longer_axis(shape):
    image = np.random.default_rng(0).integers(0, 4, shape).astype(np.uint8)
    data = {"hr_xy": [image, image[:, ::-1]], "hr_xz": [image], "image": 7}
    result = HoldOutd(["hr_xy", "hr_xz"], 0.3, edge=9)(data)
    assert list(result[HELD_OUT]) == ["hr_xy", "hr_xz"] and result["image"] == 7
    axis = 1 if shape[1] > shape[0] else 0
    for key in ("hr_xy", "hr_xz"):
        for whole, kept, strip in zip(data[key], result[key], result[HELD_OUT][key], strict=True):
            assert strip.shape[axis] == round(0.3 * shape[axis])
            np.testing.assert_array_equal(np.concatenate([kept, strip], axis), whole)


def test_nothing_is_held_out_by_default():
    image = np.zeros((4, 4), np.uint8)
    result = HoldOutd("hr", 0, edge=4)({"hr": [image]})
    assert result[HELD_OUT] == {} and result["hr"][0] is image


@pytest.mark.parametrize(
    ("share", "edge", "words"),
    [
        (0.2, 12, r"held_out: 0.2 of an HR image of \(40, 20\) pixels leaves 32 and 8 of 40, but .* crops take 12; give 0.3 to 0.7"),
        (0.8, 12, "leaves 8 and 32 of 40"),
        (0.5, 21, r"an HR image of \(40, 20\) pixels is too small to hold a crop of 21 out"),
        (1.5, 1, "held_out: 1.5 is no share"),
        (-0.1, 1, "held_out: -0.1 is no share"),
        ("some", 1, "held_out: some is no share"),
        (None, 1, "held_out: None is no share"),
    ],
)
def test_shares_that_cannot_be(share, edge, words):
    with pytest.raises(InputError, match=words) as caught:
        HoldOutd("hr", share, edge)({"hr": [np.zeros((40, 20), np.uint8)]})
    assert "\n" not in str(caught.value)
