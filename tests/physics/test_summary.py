"""The dict of all properties: values are those of the functions, and JSON holds no NaN whatever is absent."""

import json

import numpy as np
import pytest
from scipy import ndimage

from bundle.errors import InputError
from bundle.physics import elastic_moduli, formation_factor, permeability, properties

pytest.importorskip("pyamg")
pytest.importorskip("taufactor")

PHASES = ["pore", "quartz", "feldspar", "clay"]


def rock(shape=(12, 11, 10)) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape), 1)
    return np.digitize(field, [0.02, 0.2, 0.3]).astype(np.uint8)


def strict(result: dict) -> dict:
    """As another program reads it; fails on NaN and infinity."""
    return json.loads(json.dumps(result, allow_nan=False))


def test_values_are_those_of_the_functions():
    labels = rock()
    result = strict(properties(labels, PHASES, 2.0, axes=(0, 2), conductivity={"clay": 0.2}, boundary="walls"))
    assert list(result["permeability"]) == list(result["formation_factor"]) == ["z", "x"]
    for axis, name in ((0, "z"), (2, "x")):
        assert result["permeability"][name] == {"value": pytest.approx(permeability(labels == 0, 2.0, axis, "walls").millidarcy), "why": None}
        current = formation_factor(labels, [1, 0, 0, 0.2], axis)
        assert result["formation_factor"][name]["value"] == pytest.approx(current.factor)
        assert result["tortuosity"][name]["value"] == pytest.approx(current.tortuosity)
    dry = elastic_moduli(labels, [1.31e-4, 37, 37.5, 25], [0, 44, 15, 9])
    assert result["bulk_modulus"]["value"] == pytest.approx(dry.bulk) and result["shear_modulus"]["value"] == pytest.approx(dry.shear)
    assert result["porosity"] == pytest.approx((labels == 0).mean())
    assert result["volume_fractions"]["clay"] == pytest.approx((labels == 3).mean())
    assert result["settings"]["solid_for_flow"] == PHASES[1:]


def test_water_stiffens_the_pores():
    wet, dry = (properties(rock(), PHASES, 2.0, axes=(), fluid=fluid) for fluid in ("water", "air"))
    assert wet["bulk_modulus"]["value"] > 1.05 * dry["bulk_modulus"]["value"]


def test_pore_need_not_be_the_first_phase():
    labels = rock()
    swapped = np.array([1, 0, 2, 3], np.uint8)[labels]
    a, b = properties(labels, PHASES, 1.0, axes=[1]), properties(swapped, ["quartz", "pore", "feldspar", "clay"], 1.0, axes=[1])
    for key in ("permeability", "formation_factor"):
        assert a[key]["y"]["value"] == pytest.approx(b[key]["y"]["value"], rel=1e-4)
    assert a["bulk_modulus"]["value"] == pytest.approx(b["bulk_modulus"]["value"], rel=1e-4)


def test_a_rock_without_pores():
    result = strict(properties(np.ones((5, 5, 5), np.uint8), PHASES, 1.0))
    assert result["porosity"] == 0 and (result["bulk_modulus"]["value"], result["shear_modulus"]["value"]) == pytest.approx((37, 44), rel=1e-6)
    for name in "zyx":
        assert result["permeability"][name] == {"value": 0.0, "why": "pores do not lead from one end to the other"}
        assert result["formation_factor"][name]["value"] is None and "do not lead" in result["formation_factor"][name]["why"]
        assert result["tortuosity"][name]["value"] is None


def test_a_volume_that_is_all_pore():
    result = strict(properties(np.zeros((4, 4, 4), np.uint8), PHASES, 1.0, boundary="walls"))
    assert result["bulk_modulus"]["value"] == pytest.approx(1.31e-4, rel=1e-3) and result["permeability"]["x"]["value"] > 0
    assert result["formation_factor"]["z"]["value"] == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("edge", [1, 4, 16])
def test_nothing_resists_the_flow_where_all_is_pore_and_no_wall(edge):
    result = strict(properties(np.zeros((edge,) * 3, np.uint8), PHASES, 1.0))
    assert result["permeability"]["y"] == {"value": None, "why": "all is pore: nothing resists the flow"}
    assert result["formation_factor"]["z"]["value"] == pytest.approx(1, rel=1e-3)


def test_a_phase_of_unknown_moduli():
    labels = np.ones((4, 4, 4), np.uint8)
    unknown = strict(properties(labels, ["pore", "nickel"], 1.0, axes=[0]))
    assert unknown["bulk_modulus"] == unknown["shear_modulus"] == {"value": None, "why": "moduli of nickel are not known: set moduli, GPa"}
    known = properties(labels, ["pore", "nickel"], 1.0, axes=[0], moduli={"nickel": (180.0, 76.0)})
    assert known["bulk_modulus"]["value"] == pytest.approx(180, rel=1e-6)
    oil = properties(labels // 2, ["pore", "quartz"], 1.0, axes=[], fluid="oil", moduli={"oil": (1.5, 0.0)})
    assert oil["bulk_modulus"]["value"] == pytest.approx(1.5, rel=1e-6)
    absent = properties(labels, ["pore", "quartz", "nickel"], 1.0, axes=[0])
    assert absent["shear_modulus"]["value"] == pytest.approx(44, rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "phases", "settings", "message"),
    [
        (np.zeros((4, 4), np.uint8), PHASES, {}, "3D volume"),
        (np.full((4, 4, 4), 4, np.uint8), PHASES, {}, "label 4"),
        (np.zeros((4, 4, 4), np.uint8), PHASES[1:], {}, "no pore"),
        (np.zeros((4, 4, 4), np.uint8), PHASES, {"axes": [3]}, "axis 3"),
        (np.zeros((4, 4, 4), np.uint8), PHASES, {"conductivity": {"ice": 1.0}}, "ice"),
        (np.zeros((4, 4, 4), np.uint8), PHASES, {"moduli": {"qartz": (37.0, 44.0)}}, "moduli: qartz is no solid here"),
        (np.zeros((4, 4, 4), np.uint8), PHASES, {"moduli": {"pore": (2.2, 0.0)}}, "moduli: pore is no solid here .quartz, feldspar, clay, air"),
        (np.zeros((4, 4, 4), np.uint8), PHASES, {"voxel_size": -1.0}, "voxel_size"),
    ],
)
def test_impossible_input_is_told(labels, phases, settings, message):
    with pytest.raises(InputError, match=message):
        properties(labels, phases, **{"voxel_size": 1.0, **settings})


def test_a_missing_package_is_one_line(monkeypatch):
    import sys

    labels = np.zeros((4, 4, 4), np.uint8)
    monkeypatch.setitem(sys.modules, "pyamg", None)
    with pytest.raises(InputError, match=r"PyAMG: pip install -e '\.\[physics\]'"):
        permeability(labels == 0, 1.0, 0, "walls")
    monkeypatch.setitem(sys.modules, "taufactor", None)
    with pytest.raises(InputError, match=r"taufactor: pip install -e '\.\[physics\]'"):
        formation_factor(labels, [1.0], 0)
