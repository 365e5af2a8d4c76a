"""Errors against a known truth and their tables: hand-made volumes whose errors can be counted, hand-made numbers."""

from __future__ import annotations

import numpy as np
import pytest

from bundle import judging
from bundle.judging import geometry_errors, markdown, physical_errors, physical_properties, property_table, spread
from bundle.physics.summary import NOT_CONVERGED

PHASES = ("pore", "grain")


@pytest.fixture
def slab() -> np.ndarray:
    """A pore of 4 planes along z in 12 x 10 x 8 voxels."""
    labels = np.ones((12, 10, 8), np.uint8)
    labels[4:8] = 0
    return labels


def test_a_perfect_volume_has_no_error(slab):
    pytest.importorskip("skimage")
    errors = geometry_errors(slab, slab, PHASES, 0.5)
    assert errors and all(value == 0 for value in errors.values()), errors


def test_a_slab_moved_by_one_plane(slab):
    pytest.importorskip("skimage")
    errors = geometry_errors(np.roll(slab, 1, 0), slab, PHASES, 0.5)
    assert errors["wrong voxels"] == pytest.approx(2 / 12)
    assert errors["1 - Dice, pore"] == pytest.approx(1 / 4) and errors["1 - Dice, grain"] == pytest.approx(1 / 8)
    assert errors["fraction, pore"] == errors["area, pore-grain"] == errors["areas, mean"] == 0
    # Both boundaries of the slab moved by a plane of 0.5 µm; the nearest of the true pore's outer planes is inside for one of them.
    assert errors["boundary distance, pore, µm"] == pytest.approx(0.5)
    assert errors["connected porosity"] == 0


def test_a_slab_half_as_thick(slab):
    pytest.importorskip("skimage")
    thin = slab.copy()
    thin[6:8] = 1
    errors = geometry_errors(thin, slab, PHASES, 0.5)
    assert errors["fraction, pore"] == pytest.approx(0.5) and errors["fraction, grain"] == pytest.approx(2 / 8)
    # The outer planes of its pore are the first two of the four, those of the truth the first and the last: 0 and 1, 0 and 2 planes away.
    assert errors["boundary distance, pore, µm"] == pytest.approx((0 + 1 + 0 + 2) / 4 * 0.5)


def test_a_phase_that_the_truth_lacks_has_no_error(slab):
    pytest.importorskip("skimage")
    errors = geometry_errors(slab, slab, ("pore", "grain", "clay"), 0.5)
    assert errors["boundary distance, clay, µm"] is None
    assert errors["1 - Dice, clay"] is None and errors["fraction, clay"] is None and errors["two-point, clay"] is None
    assert errors["areas, mean"] == 0  # of the areas that there are


def test_flow_and_current_between_plates():
    """Pores are slits of 6 planes in 12, open along y and x: permeability h^2 / 12 x porosity, formation factor 1 / porosity; none along z."""
    pytest.importorskip("pyamg")
    pytest.importorskip("taufactor")
    labels = np.ones((12, 8, 8), np.uint8)
    labels[3:9] = 0
    found = physical_properties(labels, ("pore", "quartz"), 1.0, 1)
    z, y, x = found["permeability"]
    millidarcy = 6**2 / 12 * 0.5 / 9.869233e-4
    assert z == 0 and y == pytest.approx(x) and y == pytest.approx(millidarcy, rel=0.06)  # the scheme is 2 / h^2 too permeable
    assert found["formation_factor"][0] is None and found["formation_factor"][1] == pytest.approx(2, rel=0.02)
    coarse = physical_properties(labels.repeat(2, 0).repeat(2, 1).repeat(2, 2), ("pore", "quartz"), 0.5, 2)
    assert coarse["permeability"][1] == pytest.approx(y) and coarse["bulk_modulus"] == pytest.approx(found["bulk_modulus"])


def test_physical_errors_are_relative_means_over_the_axes():
    truth = {"permeability": [100.0, 200.0, 0.0], "formation_factor": [10.0, 20.0, None], "bulk_modulus": [40.0], "shear_modulus": [30.0]}
    found = {"permeability": [110.0, 100.0, 5.0], "formation_factor": [11.0, None, 7.0], "bulk_modulus": [36.0], "shear_modulus": [30.0]}
    errors = physical_errors(found, truth)
    assert errors["permeability"] == pytest.approx((0.1 + 0.5) / 2)  # the axis without flow in the truth is left out
    # 1 / F is .1 and .05 in the truth; without a path it is 0. The axis without a path in the truth is left out.
    assert errors["conductivity (1 / formation factor)"] == pytest.approx(((0.1 - 1 / 11) / 0.1 + 1) / 2)
    assert errors["bulk modulus"] == pytest.approx(0.1) and errors["shear modulus"] == 0
    assert physical_errors({**found, "bulk_modulus": [None]}, truth)["bulk modulus"] is None  # of unknown minerals
    assert physical_errors(found, {**truth, "shear_modulus": [-1e-3]})["shear modulus"] is None  # what hangs on nothing: no error is better than another


def test_spread_is_mean_and_standard_deviation():
    rows = [{"a": 1.0, "b": 2.0}, {"a": 2.0, "b": None}, {"a": 6.0, "b": 1.0}]
    found = spread(rows)
    assert found["a"] == (3.0, pytest.approx(np.sqrt((4 + 1 + 9) / 2)), 3) and found["b"] is None
    assert spread(rows[:1])["a"] == (1.0, 0.0, 1)


def test_table_marks_the_best_and_divides():
    columns = {"nearest": {"a": (0.5, 0.01, 3), "b": None, "c": (0.0, 0.0, 3)}, "SR": {"a": (0.2, 0.02, 3), "b": (12.3, 1.0, 3), "c": (0.1, 0.0, 3)}}
    lines = markdown(columns, ("SR", "nearest")).splitlines()
    assert lines[0] == "| error | nearest | SR | SR / nearest |" and lines[1] == "|---|---|---|---|"
    assert lines[2] == "| a | 0.500 ± 0.01 | **0.200** ± 0.02 | 0.40 |"
    assert lines[3] == "| b | - | **12** ± 1 | - |"
    assert lines[4].startswith("| c | **0.0000** ± 0 | 0.100 ± 0 | -")  # nothing can be divided by 0


def test_what_moved_against_a_loop():
    """Right now, right before, and what chance gives: each changed voxel has the truth of a voxel drawn from those of its old label."""
    rng = np.random.default_rng(0)
    scan, volume, truth = rng.integers(0, 3, (3, 6, 7, 8)).astype(np.uint8)
    volume[rng.random(volume.shape) < 0.5] = truth[rng.random(volume.shape) < 0.5][0]
    found = judging.moved_to_truth(volume, scan, truth, 3)
    moved = [index for index in np.ndindex(*scan.shape) if volume[index] != scan[index]]
    assert found["changed"] == pytest.approx(len(moved) / scan.size)
    assert found["right"] == pytest.approx(np.mean([volume[i] == truth[i] for i in moved]))
    assert found["was right"] == pytest.approx(np.mean([scan[i] == truth[i] for i in moved]))
    assert found["by chance"] == pytest.approx(np.mean([np.mean(truth[scan == scan[i]] == volume[i]) for i in moved]))


def test_nothing_moved():
    labels = np.zeros((2, 2, 2), np.uint8)
    assert judging.moved_to_truth(labels, labels, labels + 1, 2) == {"changed": 0, "right": 0, "was right": 0, "by chance": 0}


def test_properties_side_by_side():
    found = {"permeability": [1234.5, 0.0, 2.0], "formation_factor": [10.0, None, 3.0], "bulk_modulus": [30.0], "shear_modulus": [20.0]}
    lines = property_table({"truth": found, "SR": {**found, "bulk_modulus": [31.0], "shear_modulus": [None]}}).splitlines()
    assert lines[0] == "| | truth | SR |" and len(lines) == 2 + 3 + 3 + 2
    assert "| permeability z | 1234 | 1234 |" in lines and "| formation factor y | no path | no path |" in lines
    assert "| bulk modulus | 30 | 31 |" in lines and "| shear modulus | 20 | unknown |" in lines


def test_a_value_whose_solver_gave_up_is_marked(monkeypatch):
    def entry(value, why=None):
        return {"value": value, "why": why}

    axes = {"z": entry(5.0, NOT_CONVERGED), "y": entry(6.0), "x": entry(None, "no path")}
    given = {"permeability": axes, "formation_factor": {axis: entry(2.0) for axis in "zyx"}, "bulk_modulus": entry(30.0, NOT_CONVERGED),
             "shear_modulus": entry(20.0)}  # fmt: skip
    monkeypatch.setattr(judging, "properties", lambda *args, **kwargs: given)
    found = physical_properties(np.zeros((2, 2, 2), np.uint8), ("pore",), 1.0, 1)
    assert found["rough"] == ["permeability z", "bulk modulus"] and found["permeability"] == [5.0, 6.0, None]
    earlier = {name: values for name, values in found.items() if name != "rough"}  # as files of earlier versions hold it
    lines = property_table({"SR": found, "old": earlier}).splitlines()
    assert "| permeability z | ~5 | 5 |" in lines and "| permeability y | 6 | 6 |" in lines and "| bulk modulus | ~30 | 30 |" in lines


def test_what_is_foreign_within_a_phase_by_a_loop():
    rng = np.random.default_rng(0)
    scan = (rng.random((6, 7, 8)) < 0.03).astype(np.uint8)
    sr = np.where(rng.random((12, 14, 16)) < 0.2, 2, scan.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    foreign = voxels = 0
    for z, y, x in np.ndindex(scan.shape):
        if 0 < z < 5 and 0 < y < 6 and 0 < x < 7 and not scan[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2].any():
            block = sr[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            foreign, voxels = foreign + int((block != 0).sum()), voxels + block.size
    assert 0 < voxels < scan.size * 8 / 2
    assert judging.foreign_within(sr, scan) == pytest.approx(foreign / voxels)
    assert judging.foreign_within(sr, scan, label=1) is None


def test_voxels_larger_than_the_longest_lag(slab):
    """Of a core: the lag is that of a voxel."""
    found = judging.geometry_errors(slab, slab, PHASES, 200.0)
    assert found["two-point, pore"] == 0.0
