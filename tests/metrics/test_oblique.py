"""Sections at 45 degrees and the HR crops they are compared with."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bundle.errors import InputError
from bundle.metrics.oblique import check_oblique, oblique_reference, oblique_slices
from bundle.metrics.two_sample import two_sample_auc

WIDTH = 2.0  # of the smoothing of the rock, voxels
SETTINGS = {"edge": 24, "folds": 2, "steps": 180, "batch": 16, "test": 200}


def smooth_labels(seed: int, *shape: int) -> np.ndarray:
    """Isotropic rock of two phases; of equal fractions, so that faces have a closed form."""
    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), WIDTH, mode="wrap")
    return ((field - field.mean()) / field.std() > 0).astype(np.uint8)


def differing(lag: float) -> float:
    """Share of pairs of points `lag` apart that lie in different phases: arccos(correlation) / pi, of a Gaussian field cut at its mean."""
    return float(np.arccos(np.exp(-(lag**2) / (4 * WIDTH**2))) / np.pi)


def test_every_pixel_is_the_nearest_voxel_of_a_plane_at_45_degrees():
    shape, edge = (30, 32, 34), 20
    volume = np.arange(np.prod(shape)).reshape(shape)  # a label tells its place
    orientations = set()
    for crop in oblique_slices(volume, 200, edge, seed=1, folds=1):
        places = np.stack(np.unravel_index(crop, shape))  # (3, edge, edge)
        along = [axis for axis in range(3) if (np.diff(places[axis], axis=1) == 0).all()]
        assert len(along) == 1  # the axis that the plane holds
        assert (np.diff(places[along[0]], axis=0) == 1).all()  # a voxel a pixel
        first, second = (places[axis] for axis in range(3) if axis != along[0])
        assert (first == first[:1]).all() and (second == second[:1]).all()  # the same diagonal in every line
        sign = np.sign(second[0, -1] - second[0, 0])
        assert len(np.unique(first - sign * second)) == 1  # no voxel beside the plane
        # In the plane the row taken lies within half the distance of rows, sqrt(2) / 2, of the pixel, up to one shift of all.
        beside = np.sqrt(2) * np.abs(first[0] - first[0, 0]) - np.arange(edge)
        assert np.ptp(beside) <= np.sqrt(2) + 1e-9
        orientations.add((along[0], sign))
    assert len(orientations) == 6


def test_folds_come_from_blocks_that_share_no_voxel():
    volume = np.arange(40 * 41 * 42).reshape(40, 41, 42)
    images = list(np.arange(2 * 50 * 60).reshape(2, 50, 60))
    for crops in map(np.stack, (oblique_slices(volume, 402, 12, folds=4), oblique_reference(images, 402, 12, folds=4))):
        runs = [set(np.concatenate([crops[i].ravel() for i in run])) for run in np.array_split(np.arange(402), 4)]
        assert crops.shape == (402, 12, 12)
        assert sum(map(len, runs)) == len(set.union(*runs))


def test_a_pixel_of_the_reference_is_the_nearest_of_the_nearest_row():
    image, edge = np.arange(40 * 50).reshape(40, 50), 20
    along = set()
    for crop in oblique_reference(image, 100, edge, seed=2, folds=1):
        y, x = np.unravel_index(crop, image.shape)
        if (np.diff(y, axis=1) != 0).any():
            y, x = x, y  # the diagonal is along the image's other axis
            along.add(1)
        else:
            along.add(0)
        assert (np.diff(y, axis=0) == 1).all() and (x == x[:1]).all()
        beside = x[0] - x[0, 0] - np.arange(edge)
        assert np.ptp(beside) < np.sqrt(2) + 1  # of the row and of the pixel
    assert along == {0, 1}


def test_as_many_rows_come_twice_in_both():
    twice = 1 - 1 / np.sqrt(2)  # rows sqrt(2) apart on pixels 1 apart
    volume, image = np.arange(24**3).reshape(24, 24, 24), np.arange(40 * 40).reshape(40, 40)
    for crops in map(np.stack, (oblique_slices(volume, 400, 20, folds=1), oblique_reference(image, 400, 20, folds=1))):
        assert (crops[:, :, 1:] == crops[:, :, :-1]).mean() == pytest.approx(twice, abs=0.01)


def test_faces_of_isotropic_rock():
    volume, images = smooth_labels(1, 112, 112, 112), [smooth_labels(10 + i, 512, 512) for i in range(4)]
    found = {"sr": np.stack(oblique_slices(volume, 1500, 48, folds=1)), "hr": np.stack(oblique_reference(images, 1500, 48, folds=1))}
    along = {name: (crops[:, 1:] != crops[:, :-1]).mean() for name, crops in found.items()}
    across = {name: (crops[:, :, 1:] != crops[:, :, :-1]).mean() for name, crops in found.items()}
    for name in found:
        assert along[name] == pytest.approx(differing(1), rel=0.03)
    assert across["sr"] == pytest.approx(differing(np.sqrt(2)) / np.sqrt(2), rel=0.03)
    two = np.sqrt(2) - 1  # of the rows one pixel further on or two
    assert across["hr"] == pytest.approx(((1 - two) * differing(1) + two * differing(2)) / np.sqrt(2), rel=0.03)
    assert across["hr"] == pytest.approx(across["sr"], rel=0.03)


def test_isotropic_rock_is_told_apart_only_if_the_images_are_not_resampled_or_it_has_steps():
    volume, images = smooth_labels(1, 112, 112, 112), [smooth_labels(10 + i, 448, 448) for i in range(4)]
    oblique = oblique_slices(volume, 2000, 24, folds=2)
    reference = oblique_reference(images, 2000, 24, folds=2)
    steps = oblique_slices(volume[::8, ::8, ::8].repeat(8, 0).repeat(8, 1).repeat(8, 2), 2000, 24, folds=2)
    assert two_sample_auc(images, oblique, 2, **SETTINGS)["auc"] > 0.85  # the test is strong enough to see what resampling does
    assert abs(two_sample_auc(reference, oblique, 2, **SETTINGS)["auc"] - 0.5) < 0.08
    assert two_sample_auc(reference, steps, 2, **SETTINGS)["auc"] > 0.95


def test_bad_input_is_told():
    volume = np.zeros((20, 20, 20), np.uint8)
    assert oblique_slices(volume, 1, 4, voxel_size=(0.4375, 0.4375, 0.4375))[0].dtype == np.uint8
    with pytest.raises(InputError, match="voxels of 3.5 x 1 x 1 µm"):
        oblique_slices(volume, 1, 4, voxel_size=(3.5, 1, 1))
    with pytest.raises(InputError, match=r"\(z, y, x\)"):
        oblique_slices(volume[0], 1, 4)
    with pytest.raises(InputError, match=r"shape \(10, 10, 20\) has no room for crops of 18"):
        oblique_slices(volume, 20, 18)
    with pytest.raises(InputError, match="no room for crops of 10"):
        oblique_reference([volume[0]], 20, 10)


def test_a_seed_repeats_the_crops():
    volume = np.random.default_rng(3).integers(0, 4, (30, 30, 30)).astype(np.uint8)
    for draw, labels in ((oblique_slices, volume), (oblique_reference, volume[0])):
        np.testing.assert_array_equal(draw(labels, 5, 8, seed=1), draw(labels, 5, 8, seed=1))
        assert (np.stack(draw(labels, 5, 8, seed=1)) != np.stack(draw(labels, 5, 8, seed=2))).any()


@pytest.mark.parametrize("edge", [5, 12])
def test_what_has_room_is_told_beforehand(edge):
    """Whatever the check lets pass is drawn from without an error, and what it refuses runs into one; one fold, to know the sizes."""
    for size in range(edge - 2, edge + 8):
        volume, image = np.zeros((size, edge + 8, edge + 8), np.uint8), np.zeros((size, edge + 20), np.uint8)
        for draw, array, given in ((oblique_slices, volume, (volume, [np.zeros((99, 99), np.uint8)])), (oblique_reference, image, (np.zeros((99,) * 3), [image]))):
            try:
                draw(array, 400, edge, folds=1)
                fits = True
            except InputError:
                fits = False
            if fits:
                check_oblique(given[0].astype(np.uint8), given[1], edge, folds=1)
            else:
                with pytest.raises(InputError, match="no room"):
                    check_oblique(given[0].astype(np.uint8), given[1], edge, folds=1)
