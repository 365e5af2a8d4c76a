"""Enlarged parts: where the most faces are, by a loop; scan and result at one place."""

from __future__ import annotations

import numpy as np
import pytest

from bundle.zoom import busiest, enlarged


def faces(part: np.ndarray, labels: np.ndarray, row: int, column: int) -> int:
    """Of each pixel of the part those to the left and above, also where they lie outside of it."""
    count = 0
    for y in range(row, row + part.shape[0]):
        for x in range(column, column + part.shape[1]):
            count += x > 0 and labels[y, x] != labels[y, x - 1]
            count += y > 0 and labels[y, x] != labels[y - 1, x]
    return count


@pytest.mark.parametrize("step", [1, 3])
def test_busiest_by_a_loop(step):
    labels = (np.random.default_rng(0).random((18, 23)) < np.linspace(0, 0.5, 23)).astype(np.uint8)
    labels[:, 17:] = 0
    places = [(y, x) for y in range(0, 18 - 5 + 1, step) for x in range(0, 23 - 4 + 1, step)]
    best = max(places, key=lambda place: faces(labels[place[0] :, place[1] :][:5, :4], labels, *place))
    assert busiest(labels, (5, 4), step) == best and best not in ((0, 0), places[-1])
    assert busiest(labels, labels.shape) == (0, 0)


def test_scan_and_result_show_one_place_and_an_image_its_own():
    scan = np.zeros((12, 18), np.uint8)
    scan[7:9, 13:15] = [[1, 2], [2, 1]]
    fine = scan.repeat(4, 0).repeat(4, 1)
    image = np.zeros((60, 60), np.uint8)
    image[3:9, 50:56] = 1
    lr, sr, hr = enlarged({"xy": scan, "xz": scan}, {"xy": fine, "xz": fine}, {"xy": image, "yz": image}, 4, 3)
    assert lr["xy"].shape == (4, 6) and (lr["xy"] > 0).sum() == 4 and set(hr) == {"xy"}
    assert np.array_equal(sr["xy"], lr["xy"].repeat(4, 0).repeat(4, 1))
    assert hr["xy"].shape == (16, 24) and hr["xy"].sum() == 36
    small = enlarged({"xy": scan}, {"xy": fine}, {"xy": image[:5, :7]}, 4, 100)
    assert small[0]["xy"].shape == (2, 2) and small[1]["xy"].shape == (8, 8) and small[2]["xy"].shape == (5, 7)


def test_faces_are_counted_beyond_255():
    labels = (np.indices((40, 40)).sum(0) % 2).astype(np.uint8)
    labels[:, :20] = 0
    assert busiest(labels, (20, 19)) == (1, 21)  # the first row and column have fewer faces
