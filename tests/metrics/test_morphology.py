"""Morphology of one phase, against loops, closed forms and porespy."""

import itertools
import logging
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage

from bundle.errors import InputError
from bundle.io.volume import are_cubes
from bundle.metrics import (
    chord_lengths,
    connected_fraction,
    correlation,
    euler_number,
    fractions,
    lineal_path,
    pore_sizes,
    specific_surface,
    two_point,
)
from bundle.metrics.morphology import _lab, half_path


def random_mask(shape, seed=0, share=0.6) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def ball(radius: float, size: int, voxel=(1.0, 1.0, 1.0)) -> np.ndarray:
    """Voxels whose centre is in the ball in the middle of the volume; all in µm."""
    shape = [round(size / edge) for edge in voxel]
    grid = np.indices(shape).astype(float)
    return sum(((g - (n - 1) / 2) * edge) ** 2 for g, n, edge in zip(grid, shape, voxel, strict=True)) <= radius**2


def runs_along(mask: np.ndarray, axis: int) -> list[tuple[int, bool]]:
    """(length, touches the border) of each run of True, voxel by voxel."""
    found = []
    for line in np.moveaxis(mask, axis, -1).reshape(-1, mask.shape[axis]).tolist():
        position = 0
        for inside, group in itertools.groupby(line):
            n = len(list(group))
            if inside:
                found.append((n, position == 0 or position + n == len(line)))
            position += n
    return found


SHAPES_AND_AXES = [((7, 9), 0), ((7, 9), 1), ((5, 6, 7), 0), ((5, 6, 7), 1), ((5, 6, 7), 2)]


# Lineal path


@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
@pytest.mark.parametrize("block_voxels", [1 << 22, 20])
def test_lineal_path_equals_a_loop_over_segments(shape, axis, block_voxels, monkeypatch):
    monkeypatch.setattr(correlation, "BLOCK_VOXELS", block_voxels)
    mask = random_mask(shape, share=0.8)
    lines = np.moveaxis(mask, axis, -1).reshape(-1, mask.shape[axis])
    expected = [np.mean([line[i : i + lag + 1].all() for line in lines for i in range(line.size - lag)]) for lag in range(5)]
    np.testing.assert_allclose(lineal_path(mask, axis, 4), expected, rtol=1e-12)


def test_lineal_path_of_independent_voxels_is_a_power_of_the_fraction():
    found = lineal_path(random_mask((80, 80, 80), share=0.6), 1, 7)
    np.testing.assert_allclose(found, 0.6 ** np.arange(1, 9), rtol=0.02)  # 5e5 segments, of which 1.7 % lie inside at the last lag


def test_lineal_path_begins_as_the_two_point_correlation():
    labels = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((30, 30, 30)), 2) > 0.02
    s2 = two_point(labels.astype(np.uint8), 2, 0, 12)[1]
    path = lineal_path(labels, 0, 12)
    np.testing.assert_allclose(path[:2], s2[:2], atol=1e-6)  # two voxels and all between them: no voxel is between
    assert (path[2:] < s2[2:]).all()


def test_lags_of_the_lineal_path_end_with_the_volume():
    np.testing.assert_array_equal(lineal_path(np.ones((3, 5), bool), 1, 99), np.ones(5))
    np.testing.assert_array_equal(lineal_path(np.zeros((3, 5), bool), 0, 99), np.zeros(3))


def test_porespy_finds_the_same_lineal_path():
    porespy = pytest.importorskip("porespy", reason="the oracle porespy is not installed")
    mask = random_mask((9, 10, 11), share=0.85)
    ahead = porespy.filters.distance_transform_lin(mask, axis=1, mode="forward")  # voxels of the phase from here on to the wall or the border
    expected = [(ahead >= lag + 1).sum() / (9 * 11 * (10 - lag)) for lag in range(8)]
    np.testing.assert_allclose(lineal_path(mask, 1, 7), expected, rtol=1e-12)


# Chords


@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
@pytest.mark.parametrize("block_voxels", [1 << 22, 20])
def test_chords_equal_a_loop_over_voxels(shape, axis, block_voxels, monkeypatch):
    monkeypatch.setattr(correlation, "BLOCK_VOXELS", block_voxels)
    mask = random_mask(shape, 2)
    runs = runs_along(mask, axis)
    whole = [n for n, cut in runs if not cut]
    size = np.array([0.5, 2.0, 3.0])[: mask.ndim]
    found = chord_lengths(mask, axis, size)
    np.testing.assert_allclose(found["length"], np.arange(shape[axis] + 1) * size[axis])
    np.testing.assert_allclose(found["probability"], [np.mean(np.array(whole) == n) for n in range(shape[axis] + 1)])
    assert found["chords"] == len(whole)
    assert found["mean"] == pytest.approx(np.mean(whole) * size[axis])
    assert found["left_out"] == pytest.approx(1 - sum(whole) / mask.sum())


def test_chords_of_slabs():
    mask = np.zeros((20, 4, 4), bool)
    mask[3:6] = mask[10:15] = True
    mask[18:] = True  # cut by the border
    found = chord_lengths(mask, 0, (0.5, 9.0, 9.0))
    assert (found["mean"], found["chords"], found["left_out"]) == (4 * 0.5, 32, 0.2)
    assert dict(zip(found["length"], found["probability"], strict=True))[1.5] == 0.5
    across = chord_lengths(mask, 1)  # all cut
    assert (across["mean"], across["probability"], across["chords"], across["left_out"]) == (None, None, 0, 1.0)


def test_chords_of_independent_voxels_are_geometric():
    found = chord_lengths(random_mask((20, 20, 2000), share=0.5), 2)
    np.testing.assert_allclose(found["probability"][:5], [0, 0.5, 0.25, 0.125, 0.0625], atol=0.005)
    assert found["mean"] == pytest.approx(2.0, rel=0.01)


def test_a_phase_that_is_absent_has_no_chords():
    found = chord_lengths(np.zeros((4, 5), bool), 0)
    assert (found["mean"], found["probability"], found["chords"], found["left_out"]) == (None, None, 0, None)


def test_porespy_finds_the_same_chords_on_the_lines_it_reads():
    porespy = pytest.importorskip("porespy", reason="the oracle porespy is not installed")
    mask = random_mask((15, 14, 13), 3)
    chords = porespy.filters.apply_chords(mask, spacing=1, axis=0)
    theirs = np.sort(ndimage.sum_labels(chords > 0, *_label_lines(chords > 0)))
    lines = mask[:, ::2, ::2][:, 1:-1, 1:-1]  # every other line, and none of the outermost
    counts = chord_lengths(lines, 0)
    ours = np.repeat(np.arange(16), np.round(counts["probability"] * counts["chords"]).astype(int))
    np.testing.assert_array_equal(ours, theirs)


def _label_lines(mask: np.ndarray):
    labels, n = ndimage.label(mask)
    return labels, np.arange(1, n + 1)


# Pore sizes


def test_pore_sizes_of_slits_are_half_their_width():
    pytest.importorskip("porespy", reason="porespy is not installed")
    mask = np.zeros((20, 9, 9), bool)
    mask[2:6] = True
    mask[8:16] = True  # 8 of 12 voxels
    found = pore_sizes(mask, 0.5)
    np.testing.assert_allclose(found["radius"], [0.5, 1.0, 1.5, 2.0])
    np.testing.assert_allclose(found["probability"], [0, 4 / 12, 0, 8 / 12])
    assert found["mean"] == pytest.approx((4 * 1.0 + 8 * 2.0) / 12)


def test_pore_sizes_leave_the_threads_as_they_were():
    """Who has one core of many, on a cluster or beside other jobs, keeps to it."""
    pytest.importorskip("porespy", reason="porespy is not installed")
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            pore_sizes(np.indices((20, 9, 9)).sum(0) % 9 > 3)
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("shape", [(24, 24), (13, 13, 13)])
def test_pore_sizes_equal_a_search_of_all_balls(shape):
    pytest.importorskip("porespy", reason="porespy is not installed")
    mask = ndimage.gaussian_filter(np.random.default_rng(4).standard_normal(shape), 2) > 0
    deep = ndimage.distance_transform_edt(mask)
    centres, here = np.argwhere(mask), np.argwhere(mask)
    radius = np.floor(deep[mask])
    far = np.sqrt(((here[:, None] - centres[None]) ** 2).sum(-1))
    largest = np.max([np.where((far < r) & (r <= radius), r, 0).max(1) for r in range(1, int(radius.max()) + 1)], axis=0)
    found = pore_sizes(mask)
    expected = [np.mean(largest == r) for r in range(1, found["radius"].size + 1)]
    np.testing.assert_allclose(found["probability"], expected)
    assert found["mean"] == pytest.approx(largest.mean())


def test_pore_sizes_of_a_ball():
    pytest.importorskip("porespy", reason="porespy is not installed")
    found = pore_sizes(ball(10, 25))
    assert found["mean"] == pytest.approx(10, abs=1)


def test_nothing_bounds_a_phase_that_fills_all_or_is_absent():
    assert pore_sizes(np.ones((4, 4), bool)) is None and pore_sizes(np.zeros((4, 4), bool)) is None


def test_pore_sizes_need_cubic_voxels():
    with pytest.raises(InputError, match="cubic"):
        pore_sizes(random_mask((4, 4, 4)), (1, 1, 2))


@pytest.mark.parametrize("size", [(2.0, 2.0, 2.004), (2.003, 2.0, 2.0), (2.0, 2.019, 2.0), (2.0, 2.0, 1.981)])
def test_pore_sizes_take_for_cubes_what_the_rest_does(size):
    """Files round voxel sizes: an evaluation asks `are_cubes` first."""
    pytest.importorskip("porespy", reason="porespy is not installed")
    mask = np.zeros((12, 9, 9), bool)
    mask[4:8] = True
    assert are_cubes(size) and pore_sizes(mask, size)["mean"] == pytest.approx(2 * size[0])


# Euler number


def cell_complex(mask: np.ndarray) -> int:
    """Voxels - pairs + squares - cubes of face neighbours that are all True."""
    total = 0
    for corner in itertools.product((1, 2), repeat=mask.ndim):
        if all(n >= c for n, c in zip(mask.shape, corner, strict=True)):
            windows = np.lib.stride_tricks.sliding_window_view(mask, corner)
            total += (-1) ** sum(c - 1 for c in corner) * int(windows.all(axis=tuple(range(-mask.ndim, 0))).sum())
    return total


def torus(size=24) -> np.ndarray:
    z, y, x = np.indices((size,) * 3) - (size - 1) / 2
    return (np.hypot(y, x) - 7) ** 2 + z**2 <= 3.2**2


def test_euler_numbers_of_known_bodies():
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    solid = ball(9, 24)
    assert euler_number(solid)["number"] == 1
    assert euler_number(torus())["number"] == 0
    assert euler_number(solid & ~ball(5, 24))["number"] == 2
    assert euler_number(np.concatenate([solid, solid]))["number"] == 2
    assert euler_number(solid[12])["number"] == 1 and euler_number(torus()[12])["number"] == 0
    assert euler_number(np.zeros((3, 3, 3), bool))["number"] == 0


@pytest.mark.parametrize("shape", [(7, 8), (5, 6, 7), (1, 4, 5)])
@pytest.mark.parametrize("block_voxels", [1 << 22, 60, 1])
def test_euler_number_is_that_of_the_cell_complex(shape, block_voxels, monkeypatch):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    monkeypatch.setattr(fractions, "BLOCK_VOXELS", block_voxels)
    for seed in range(5):
        mask = random_mask(shape, seed, 0.5)
        assert euler_number(mask)["number"] == cell_complex(mask)


def test_euler_number_is_of_face_neighbours_and_per_volume():
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    corner = np.zeros((4, 4, 4), bool)
    corner[1, 1, 1] = corner[2, 2, 2] = True
    found = euler_number(corner, (0.5, 1, 2))
    assert found == {"number": 2, "density": pytest.approx(2 / 64), "connectivity": 6}
    assert euler_number(corner[1], 0.5) == {"number": 1, "density": pytest.approx(1 / 4), "connectivity": 4}


# Percolation


def flood(mask: np.ndarray, axis: int) -> float:
    """Grow from both faces and count what either reached in a cluster that the other did: voxel by voxel."""
    reached = []
    for face in (0, mask.shape[axis] - 1):
        seen = {tuple(i) for i in np.argwhere(mask) if i[axis] == face}
        todo = list(seen)
        while todo:
            here = todo.pop()
            for a, step in itertools.product(range(mask.ndim), (-1, 1)):
                there = tuple(i + step * (a == b) for b, i in enumerate(here))
                if all(0 <= i < n for i, n in zip(there, mask.shape, strict=True)) and mask[there] and there not in seen:
                    seen.add(there)
                    todo.append(there)
        reached.append(seen)
    return len(reached[0] & reached[1]) / mask.sum()  # a cluster is reached as a whole or not at all


@pytest.mark.parametrize("shape", [(9, 12), (7, 8, 9)])
def test_connected_fraction_equals_a_flood(shape, monkeypatch):
    monkeypatch.setattr(fractions, "BLOCK_VOXELS", 60)
    values = []
    for seed in range(6):
        mask = random_mask(shape, seed, 0.65 if len(shape) == 2 else 0.33)
        expected = [flood(mask, axis) for axis in range(mask.ndim)]
        assert connected_fraction(mask) == pytest.approx(expected)
        values += expected
    assert 0.0 in values and any(0 < value < 1 for value in values)


def test_a_channel_and_a_dead_end():
    mask = np.zeros((6, 6, 6), bool)
    mask[:, 1, 1] = True  # 6 voxels from face to face along z
    mask[0:3, 3, 3] = mask[4:, 3, 3] = True  # the wall parts it: 5 voxels
    mask[3, 4, 4] = True  # touches edges only: no neighbour
    assert connected_fraction(mask) == [6 / 12, 0.0, 0.0]
    assert connected_fraction(np.zeros((3, 3), bool)) == [None, None]


def test_porespy_finds_the_same_percolating_porosity():
    porespy = pytest.importorskip("porespy", reason="the oracle porespy is not installed")
    mask = random_mask((12, 12, 12), 7, 0.36)
    theirs = [float(porespy.metrics.percolating_porosity(mask, axis)) / mask.mean() for axis in range(3)]
    assert connected_fraction(mask) == pytest.approx(theirs)
    assert all(0 < share < 1 for share in theirs)


# Specific surface


@pytest.mark.parametrize(("voxel", "excess"), [((1.0, 1.0, 1.0), 1.09), ((0.5, 1.0, 1.25), 1.135)])
def test_surface_of_a_ball(voxel, excess):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    radius, mask = 20.0, ball(20, 50, voxel)
    found = specific_surface(mask, voxel)
    cells = np.prod([(n - 1) * edge for n, edge in zip(mask.shape, voxel, strict=True)])
    # Marching cubes of a binary volume put a corner on half a voxel: 9 % too much at any resolution, more where voxels are no cubes.
    assert found["marching_cubes"] * cells == pytest.approx(excess * 4 * np.pi * radius**2, rel=0.01)
    # Faces are the ball's shadows: pi r^2 six times.
    seen = [n * edge for n, edge in zip(mask.shape, voxel, strict=True)]
    interior = [np.prod(seen) * (n - 1) / n for n in mask.shape]
    assert found["faces"] == pytest.approx(sum(2 * np.pi * radius**2 / volume for volume in interior), rel=0.01)


def test_surface_of_a_laminate_is_its_planes():
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    mask = np.zeros((11, 5, 6), bool)
    mask[3:7] = True
    for axis in range(3):
        turned = np.moveaxis(mask, 0, axis)
        size = [2.0, 3.0, 0.7]
        found = specific_surface(turned, size)
        assert found["faces"] == pytest.approx(2 / (10 * size[axis]))
        assert found["marching_cubes"] == pytest.approx(2 / (10 * size[axis]), rel=1e-5)


def test_marching_cubes_see_a_slanted_plane_as_it_is():
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    z, y, _ = np.indices((20, 20, 20))
    found = specific_surface(z + y < 19)
    assert found["faces"] == pytest.approx(2 / 19, rel=0.06)
    assert found["marching_cubes"] * 19**3 == pytest.approx(np.sqrt(2) * 19 * 19, rel=0.06)


@pytest.mark.parametrize("block_voxels", [1 << 22, 100, 1])
def test_surface_does_not_depend_on_the_slabs(block_voxels, monkeypatch):
    measure = pytest.importorskip("skimage.measure", reason="scikit-image is not installed")
    monkeypatch.setattr(fractions, "BLOCK_VOXELS", block_voxels)
    mask = ball(3.2, 9)
    mask[:4] = False  # slabs without any surface too
    vertices, triangles, _, _ = measure.marching_cubes(mask.astype(float), 0.5)
    expected = measure.mesh_surface_area(vertices, triangles) / 8**3
    assert specific_surface(mask)["marching_cubes"] == pytest.approx(expected, rel=1e-5)


def test_no_surface_where_there_is_one_phase():
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    for mask in (np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)):
        assert specific_surface(mask) == {"marching_cubes": 0.0, "faces": 0.0}


# Bad input


@pytest.mark.parametrize("shape", [(5, 6), (1, 5, 6)])
def test_surface_needs_three_dimensions(shape):
    with pytest.raises(InputError, match="3D volume of 2 voxels or more"):
        specific_surface(np.ones(shape, bool))


@pytest.mark.parametrize("mask", [np.ones((3, 3), np.uint8), np.ones(3, bool), np.ones((0, 3, 3), bool), np.ones((1, 2, 3, 4), bool)])
@pytest.mark.parametrize(
    "measure", [lambda m: lineal_path(m, 0, 2), lambda m: chord_lengths(m, 0), pore_sizes, euler_number, connected_fraction, specific_surface]
)
def test_what_is_no_mask_is_refused(mask, measure):
    with pytest.raises(InputError, match="boolean"):
        measure(mask)


def test_voxel_sizes_are_one_or_one_an_axis():
    with pytest.raises(InputError, match="voxel size"):
        chord_lengths(np.ones((3, 3), bool), 0, (1, 1, 1))
    with pytest.raises(InputError, match="voxel size"):
        chord_lengths(np.ones((3, 3, 3), bool), 0, -1)


@pytest.mark.parametrize(
    ("measure", "module", "package"),
    [(pore_sizes, "porespy", "porespy"), (euler_number, "skimage.measure", "scikit-image"), (specific_surface, "skimage.measure", "scikit-image")],
)
def test_an_absent_library_is_told_in_one_line(measure, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"^this measure needs {package}: pip install -e '\.\[lab\]'$"):
        measure(random_mask((4, 4, 4)))


def test_a_library_leaves_the_log_alone(tmp_path, monkeypatch):
    (tmp_path / "loud_library.py").write_text("import logging\nlogging.getLogger().addHandler(logging.StreamHandler())\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = logging.root.handlers[:]
    _lab("loud_library")
    assert "loud_library" in sys.modules and logging.root.handlers == before


def test_half_of_the_lineal_path_against_counting():
    """Runs of 1 to 9 voxels along y: segments fall off over many lags. Without the phase, or with nothing else, there is no half."""
    mask = np.zeros((3, 40, 2), bool)
    for z, start in np.ndindex(3, 4):
        mask[z, 10 * start : 10 * start + 1 + (3 * z + 2 * start) % 9] = True
    line = np.moveaxis(mask, 1, -1).reshape(-1, 40)
    chance = [np.mean([row[i : i + lag + 1].all() for row in line for i in range(40 - lag)]) for lag in range(40)]
    lag = next(lag for lag, share in enumerate(chance) if share <= chance[0] / 2)
    assert lag > 1 and chance[lag] > chance[0] / 3  # a third would be met later
    expected = lag - 1 + (chance[lag - 1] - chance[0] / 2) / (chance[lag - 1] - chance[lag])
    assert half_path(mask, 1, (1.0, 0.5, 1.0)) == pytest.approx(0.5 * expected)
    assert half_path(~np.ones((4, 4), bool), 0) is None and half_path(np.ones((4, 4), bool), 0) is None
