"""All of one candidate against its truth."""

import json
import sys

import numpy as np
import pytest
from scipy import ndimage

from bundle.errors import InputError
from bundle.metrics import boundary_distance, fidelity, upsample_nearest, upsample_trilinear, voxel_agreement

pytest.importorskip("skimage", reason="scikit-image is not installed")

PHASES = ["quartz", "pore", "clay"]


def rock(seed=0, shape=(16, 20, 24)) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2, mode="wrap")
    return np.digitize(field / field.std(), [-0.3, 1.0]).astype(np.uint8)


def test_the_truth_itself_is_perfect():
    truth = rock()
    found = fidelity(truth, truth, PHASES, 0.5, max_lag=4)
    assert found["accuracy"] == 1 and set(found["dice"].values()) == {1.0} and found["mean_relative_error"] == 0
    assert all(distance == {"mean": 0, "hausdorff_95": 0} for distance in found["boundary_distance"].values())
    assert all(errors == {"mean": 0, "max": 0} for errors in found["two_point"].values())
    assert all(values["volume"] == values["truth"] for values in found["pore"].values())
    assert found["notes"] == [] and found["absent"] == {}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_each_number_is_the_one_of_a_loop():
    truth = rock()
    volume = np.roll(truth, 2, axis=2)
    volume[3:6, 4:8, 5:9] = 2
    size = (1.0, 0.5, 2.0)
    found = fidelity(volume, truth, PHASES, size, max_lag=4)
    assert {key: found[key] for key in ("accuracy", "confusion", "dice", "absent")} == voxel_agreement(volume, truth, PHASES)
    assert found["boundary_distance"] == boundary_distance(volume, truth, PHASES, size)
    share = {key: np.mean(array == 1) for key, array in (("volume", volume), ("truth", truth))}
    assert found["statistics"]["pore"] == pytest.approx(share | {"error": abs(share["volume"] - share["truth"]) / share["truth"]})
    errors = [value["error"] for value in found["statistics"].values() if value["error"] is not None]
    assert found["mean_relative_error"] == pytest.approx(np.mean(errors)) and len(errors) == 5  # quartz never touches clay in the truth
    for label, name in enumerate(PHASES):
        means, largest = [], []
        for axis, lags in enumerate((4, 8, 2)):  # 4 µm
            curves = []
            for array in (volume, truth):
                inside = np.moveaxis(array == label, axis, 0)
                curves.append([np.mean(inside[:-lag] & inside[lag:]) for lag in range(1, lags + 1)])
            difference = np.abs(np.subtract(*curves))
            means.append(difference.mean())
            largest.append(difference.max())
        assert found["two_point"][name] == pytest.approx({"mean": np.mean(means), "max": max(largest)}, abs=1e-6)


def test_topology_of_the_pore_by_name():
    truth = np.zeros((8, 8, 9), np.uint8)
    truth[:, 3, 3] = 1  # a channel along z
    volume = truth.copy()
    volume[4, 3, 3] = 0  # blocked
    volume[6, 6, 2:5] = 1  # a chord of 3 voxels, apart
    found = fidelity(volume, truth, ["quartz", "pore"], (1.0, 1.0, 0.5), max_lag=3)
    assert found["pore"] == {
        "euler_number": {"volume": 3, "truth": 1},
        "connected_fraction": {"volume": [0.0, 0.0, 0.0], "truth": [1.0, 0.0, 0.0]},
        "mean_chord": {
            "volume": [1.0, 1.0, pytest.approx((7 * 1 + 3) / 8 * 0.5)],  # along z the channel is cut by the border, but the 3 voxels are not
            "truth": [None, 1.0, 0.5],
        },
    }
    assert found["notes"] == [
        "pore of the volume does not percolate along z, y, x: connected fraction 0",
        "pore of the truth does not percolate along y, x: connected fraction 0",
    ]
    other = fidelity(volume, truth, ["quartz", "pore"], 1.0, pore="quartz", max_lag=3)
    assert other["pore"]["connected_fraction"] == {"volume": [1.0] * 3, "truth": [1.0] * 3}


def test_absent_phases_are_none_and_said():
    truth, volume = np.zeros((6, 6, 6), np.uint8), np.zeros((6, 6, 6), np.uint8)
    truth[2:] = 2
    volume[2:] = 1
    found = fidelity(volume, truth, ["quartz", "pore", "clay", "mica"], 1.0, max_lag=2)
    assert found["dice"] == {"quartz": 1.0, "pore": None, "clay": None, "mica": None}
    assert {name for name, value in found["boundary_distance"].items() if value is None} == {"pore", "clay", "mica"}
    assert found["two_point"]["mica"] is None and found["two_point"]["clay"]["mean"] > 0
    assert found["statistics"]["pore"]["error"] is None and found["statistics"]["clay"]["error"] == 1
    assert found["pore"]["euler_number"] == {"volume": 1, "truth": None}
    assert found["pore"]["connected_fraction"]["truth"] == found["pore"]["mean_chord"]["truth"] == [None] * 3
    assert found["notes"] == [
        "pore is absent in the truth: no Dice, no boundary distance",
        "clay is absent in the volume: no Dice, no boundary distance",
        "mica is absent in both: no Dice, no boundary distance",
        "pore of the volume does not percolate along z: connected fraction 0",
    ]
    json.dumps(found, allow_nan=False)


def test_trilinear_is_truer_than_nearest_to_a_smooth_rock():
    z, y, x = np.indices((64, 64, 64)) / 8
    fine = ((z - 4) ** 2 + (y - 4) ** 2 + (x - 4) ** 2 < 3.2**2).astype(np.uint8)
    coarse = fine[4::8, 4::8, 4::8]
    nearest, smooth = (fidelity(v, fine, ["quartz", "pore"], 0.5) for v in (upsample_nearest(coarse, 8), upsample_trilinear(coarse, 8, 2)))
    assert smooth["accuracy"] > nearest["accuracy"]
    assert smooth["boundary_distance"]["pore"]["mean"] < nearest["boundary_distance"]["pore"]["mean"]


def test_bad_input_is_told():
    good = rock()
    with pytest.raises(InputError, match="same grid"):
        fidelity(good[1:], good, PHASES, 1.0)
    with pytest.raises(InputError, match="label 2, of 2 phases"):
        fidelity(good, good, ["quartz", "pore"], 1.0)
    with pytest.raises(InputError, match="two 3D volumes"):
        fidelity(good[0], good[0], PHASES, 1.0)
    with pytest.raises(InputError, match="must hold void"):
        fidelity(good, good, PHASES, 1.0, pore="void")
    with pytest.raises(InputError, match="no name twice"):
        fidelity(good, good, ["pore", "pore", "clay"], 1.0)
    with pytest.raises(InputError, match="voxel size"):
        fidelity(good, good, PHASES, (1.0, 2.0))
    with pytest.raises(InputError, match="lag of 1 voxel"):
        fidelity(good, good, PHASES, 10.0, max_lag=5)


def test_an_absent_library_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(InputError, match="needs scikit-image"):
        fidelity(rock(), rock(), PHASES, 1.0, max_lag=4)
