"""Interfacial areas: faces between two labels / all interior faces."""

import itertools

import numpy as np
import pytest

from bundle.errors import InputError
from bundle.metrics import face_counts, fractions, interfacial_areas, phase_pairs


def brute_force(array: np.ndarray, n_phases: int, axes=None) -> np.ndarray:
    """Visit every voxel and its next neighbour."""
    found, total = dict.fromkeys(phase_pairs(n_phases), 0), 0
    for index in itertools.product(*map(range, array.shape)):
        for axis in range(array.ndim) if axes is None else axes:
            neighbour = tuple(i + (a == axis) for a, i in enumerate(index))
            if neighbour[axis] < array.shape[axis]:
                total += 1
                pair = tuple(sorted((int(array[index]), int(array[neighbour]))))
                if pair in found:
                    found[pair] += 1
    return np.array(list(found.values())) / total


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((6, 7), None), ((6, 7), (0,)), ((6, 7), (1, 0)), ((5, 4, 6), None), ((5, 4, 6), (0,)), ((5, 4, 6), (1, 2)), ((1, 4, 3), None)],
)
@pytest.mark.parametrize("block_voxels", [1 << 22, 30, 1])
def test_equals_a_loop_over_all_faces(shape, axes, block_voxels, monkeypatch):
    monkeypatch.setattr(fractions, "BLOCK_VOXELS", block_voxels)
    labels = np.random.default_rng(1).integers(0, 4, shape, np.uint8)
    np.testing.assert_allclose(interfacial_areas(labels, 4, axes), brute_force(labels, 4, axes))


def test_interior_faces_are_those_of_the_paper():
    x, y, z = 5, 4, 3
    assert face_counts(np.zeros((x, y), np.uint8), 1).sum() == 2 * x * y - x - y
    assert face_counts(np.zeros((z, y, x), np.uint8), 1).sum() == 3 * x * y * z - (x * y + y * z + z * x)


def test_every_face_of_a_checkerboard_is_an_interface():
    checkerboard = (np.indices((4, 5, 6)).sum(0) % 2).astype(np.uint8)
    np.testing.assert_allclose(interfacial_areas(checkerboard, 2), [1.0])
    np.testing.assert_allclose(interfacial_areas(checkerboard[0], 2), [1.0])


def test_a_laminate_has_one_interface_normal_to_its_axis():
    laminate = np.zeros((6, 4, 4), np.uint8)
    laminate[3:] = 2
    np.testing.assert_allclose(interfacial_areas(laminate, 3, axes=(0,)), [0, 16 / (5 * 16), 0])
    np.testing.assert_allclose(interfacial_areas(laminate, 3, axes=(1, 2)), 0)


def test_2d_slices_of_an_isotropic_volume_have_its_areas():
    labels = np.random.default_rng(2).choice(3, (60, 60, 60), p=(0.2, 0.3, 0.5)).astype(np.uint8)
    expected = [2 * 0.2 * 0.3, 2 * 0.2 * 0.5, 2 * 0.3 * 0.5]  # independent neighbours
    np.testing.assert_allclose(interfacial_areas(labels, 3), expected, rtol=0.02)
    np.testing.assert_allclose(interfacial_areas(list(labels), 3), expected, rtol=0.02)


@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 5)])
@pytest.mark.parametrize("axes", [None, (1,)])
def test_upsample_is_nearest_neighbour_repetition(shape, axes):
    labels = np.random.default_rng(3).integers(0, 3, shape, np.uint8)
    fine = labels
    for axis in range(labels.ndim):
        fine = fine.repeat(4, axis)
    np.testing.assert_allclose(interfacial_areas(labels, 3, axes, upsample=4), interfacial_areas(fine, 3, axes))


def test_more_phases_than_pair_codes_fit_in_a_byte():
    labels = np.array([[18, 19]], np.uint8)
    areas = dict(zip(phase_pairs(20), interfacial_areas(labels, 20), strict=True))
    assert areas.pop((18, 19)) == 1.0 and not any(areas.values())


def test_unknown_label_and_no_face_are_told():
    with pytest.raises(InputError, match="label 4"):
        interfacial_areas(np.array([[4, 0]], np.uint8), 4)
    with pytest.raises(InputError, match="one voxel"):
        interfacial_areas(np.zeros((1, 4, 3), np.uint8), 2, axes=(0,))


def test_taufactor_counts_the_same_faces():
    metrics = pytest.importorskip("taufactor.metrics", reason="the oracle taufactor is not installed")
    labels = np.random.default_rng(4).integers(0, 3, (6, 7, 8), np.uint8)
    z, y, x = labels.shape
    per_volume = metrics.interfacial_areas(labels, device="cpu")  # faces / voxels
    interior = 3 * x * y * z - (x * y + y * z + z * x)
    expected = [per_volume[pair] * labels.size / interior for pair in phase_pairs(3)]
    np.testing.assert_allclose(interfacial_areas(labels, 3), expected)
