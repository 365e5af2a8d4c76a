"""What an evaluation measures on demand: each part against numbers that can be counted on the volumes made here."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from bundle import assessment, judging
from bundle.assessment import Assessment
from bundle.errors import InputError
from bundle.io import Volume, write_volume
from bundle.metrics import majority_downsample
from bundle.metrics.fractions import as_arrays

PHASES = ("pore", "grain")
MILLIDARCY = 9.869233e-4
NOT_TOLD = {"auc": 0.5, "error": 0.1, "crops": {name: np.zeros((4, 2, 2), np.uint8) for name in ("real", "fake")}}


@pytest.fixture
def slits() -> np.ndarray:
    """Fine truth, 32 x 24 x 24: slits of 8 planes along z in every 16."""
    labels = np.ones((32, 24, 24), np.uint8)
    labels[4:12] = labels[20:28] = 0
    return labels


@pytest.fixture
def volumes(slits) -> tuple[Volume, Volume]:
    """LR, 4 times coarser, and an SR that is the truth but for one wrong block."""
    sr = slits.copy()
    sr[:4, :4, :4] = 0
    return Volume(majority_downsample(slits, 4, 2), (2.0,) * 3), Volume(sr, (0.5,) * 3)


def images(seed: int = 0) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return {"all planes": [rng.integers(0, 2, (96, 96)).astype(np.uint8) for _ in range(4)]}


def measured(settings: Assessment, *of) -> dict:
    """As an evaluation calls it."""
    lr, sr, groups, phases, scale, unit = of if len(of) == 6 else (*of, "µm")
    return settings.run(lr, sr, groups, phases, scale, unit, settings.prepare(lr, sr, groups, phases, scale, unit))


def test_nothing_is_measured_unless_asked_for(volumes):
    assert measured(Assessment(), *volumes, images(), PHASES, 4) == {}


def test_truth_stands_beside_the_baselines(volumes, slits, tmp_path):
    pytest.importorskip("skimage")
    write_volume(tmp_path / "truth.tif", Volume(slits, (0.5,) * 3))
    found = measured(Assessment(truth_image=tmp_path / "truth.tif"), *volumes, images(), PHASES, 4)["truth"]
    assert list(found["wrong voxels"]) == ["nearest", "trilinear", "SR"]
    assert found["wrong voxels"]["nearest"] == 0  # the slits lie on the coarse grid
    assert found["wrong voxels"]["SR"] == pytest.approx(64 / slits.size)
    assert found["1 - Dice, pore"]["SR"] == pytest.approx(1 - 2 * 9216 / (9216 + 9216 + 64))  # 16 planes of 24 x 24 are pore


@pytest.mark.parametrize(("unit", "edge"), [("µm", 0.5), ("SR voxels", 1.0)])
def test_errors_against_the_truth_are_in_the_unit_of_the_voxels(volumes, slits, tmp_path, unit, edge):
    """Both slits are a plane too thick on one side, so half of the planes on each side of a boundary are one plane off."""
    pytest.importorskip("skimage")
    write_volume(tmp_path / "truth.tif", Volume(slits, None))
    thick = slits.copy()
    thick[12] = thick[28] = 0
    lr, sr = Volume(volumes[0].array, (4 * edge,) * 3), Volume(thick, (edge,) * 3)
    found = measured(Assessment(truth_image=tmp_path / "truth.tif"), lr, sr, images(), PHASES, 4, unit)["truth"]
    assert [name for name in found if "distance" in name] == [f"boundary distance, {phase}, {unit}" for phase in PHASES]
    assert found[f"boundary distance, pore, {unit}"]["SR"] == pytest.approx(edge / 2)


@pytest.mark.parametrize(("change", "message"), [
    (lambda labels: labels[:-4], r"truth.tif has shape \(28, 24, 24\), SR \(32, 24, 24\): give the truth of the same place"),
    (lambda labels: labels + 4, r"truth.tif: holds values \(4, 5\) where 0, 1 are known; save it with 0 to 1, or correct the phases"),
])  # fmt: skip
def test_a_truth_that_does_not_fit_is_refused(volumes, slits, tmp_path, change, message):
    write_volume(tmp_path / "truth.tif", Volume(change(slits), (0.5,) * 3))
    with pytest.raises(InputError, match=message):
        measured(Assessment(truth_image=tmp_path / "truth.tif"), *volumes, images(), PHASES, 4)


def half_of_the_slits(line: np.ndarray) -> float:
    """Lag at which segments of a line lie in the phase half as often as points, by counting."""
    chance = [np.mean([line[i : i + lag + 1].all() for i in range(len(line) - lag)]) for lag in range(len(line))]
    lag = next(lag for lag, c in enumerate(chance) if c <= chance[0] / 2)
    return lag - 1 + (chance[lag - 1] - chance[0] / 2) / (chance[lag - 1] - chance[lag])


def test_shape_of_the_pore(volumes):
    pytest.importorskip("skimage")
    pytest.importorskip("porespy")
    found = measured(Assessment(morphology=True), *volumes, images(), PHASES, 4)["morphology"]
    chord = found["mean chord of pore along z, µm"]
    assert chord["LR"] == pytest.approx(4.0)  # two coarse planes of 2 µm
    assert found["share of pore connected along y"]["LR"] == 1 and found["share of pore connected along z"]["LR"] == 0
    # Two slits: Euler number 2 in 16 x 12 x 12 µm.
    assert found["Euler number of pore per mm³"]["LR"] == pytest.approx(2 / (16 * 12 * 12) * 1e9)
    # A ball of one voxel fills a slit of two planes.
    path = found["segments wholly in pore half as often as its points along z, µm"]
    assert path["LR"] == pytest.approx(2.0 * half_of_the_slits(volumes[0].array[:, 0, 0] == 0))
    assert found["mean radius of pore by volume, µm"]["LR"] == pytest.approx(2.0)
    assert path["HR images"] == pytest.approx(0.5, rel=0.1)  # half of the random pixels have a neighbour of their own
    assert all(list(row) == ["LR", "SR", "HR images"] for row in found.values())  # one table
    assert found["share of pore connected along z"]["HR images"] is None
    assert chord["HR images"] == pytest.approx(1.0, rel=0.05)  # random pixels of 0.5 µm: chords of 1 / (1 - 1/2) pixels


def test_no_pore_at_all_is_said_and_not_made_up(volumes):
    pytest.importorskip("skimage")
    lr, sr = volumes
    found = measured(Assessment(morphology=True), Volume(np.ones_like(lr.array), lr.voxel_size), sr, images(), PHASES, 4)["morphology"]
    assert found["mean chord of pore along z, µm"]["LR"] is None
    assert found["Euler number of pore per mm³"]["LR"] is None and found["surface of pore by voxel faces per volume, 1/µm"]["LR"] is None


def test_physics_of_the_middle_cube(volumes, slits, tmp_path):
    pytest.importorskip("pyamg")
    pytest.importorskip("taufactor")
    write_volume(tmp_path / "truth.tif", Volume(slits, (0.5,) * 3))
    lr, sr = volumes
    phases = ("pore", "quartz")
    found = measured(Assessment(truth_image=tmp_path / "truth.tif", physics=4, physics_cell=1), lr, sr, images(), phases, 4)["physics"]
    assert list(found["porosity of the middle 4 x 4 x 4 LR voxels"]) == ["Truth", "LR", "nearest", "SR"]
    # In the middle, fine planes 8 to 24 hold the halves of two slits, 4 planes each, which the mirrors make whole: 8 planes of .5 µm.
    expected = 4.0**2 / 12 * 0.5 / MILLIDARCY
    flow = found["permeability along y, mD"]
    for title in ("Truth", "nearest", "SR"):  # the wrong block lies outside
        assert flow[title] == pytest.approx(expected, rel=0.04), title
    assert flow["LR"] > 1.05 * expected  # slits of two cells are too permeable
    assert found["formation factor along y"]["SR"] == pytest.approx(2, rel=0.02)
    assert isinstance(found["permeability along z, mD"]["SR"], str) and "pores do not lead" in found["permeability along z, mD"]["SR"]
    assert isinstance(found["formation factor along z"]["SR"], str)


def test_cells_of_the_physics_are_majorities(volumes, monkeypatch):
    seen = {}

    def properties(labels, phases, voxel_size, pore, **minerals):
        seen[len(seen)] = (labels.copy(), voxel_size)
        raise InputError("enough")

    monkeypatch.setattr(judging, "properties", properties)
    lr, sr = volumes
    with pytest.raises(InputError, match="enough"):
        Assessment(physics=6, physics_cell=2)._physics(lr, sr, sr.array, PHASES, 4)
    labels, size = seen[0]
    assert size == 1.0
    np.testing.assert_array_equal(labels, majority_downsample(sr.array[4:28, 0:24, 0:24], 2, 2))


def test_a_network_tells_repeated_voxels_from_images(monkeypatch):
    monkeypatch.setattr(assessment, "CROP", 16)
    monkeypatch.setattr(assessment, "CROPS", 60)
    monkeypatch.setattr(assessment, "two_sample_auc", partial(assessment.two_sample_auc, steps=20, test=40))
    monkeypatch.setattr(assessment, "real_reference", partial(assessment.real_reference, steps=20, test=40))
    rng = np.random.default_rng(1)
    sr = rng.integers(0, 2, (96, 96, 96)).astype(np.uint8)  # of one distribution with the images: every voxel a coin
    lr = Volume(rng.integers(0, 2, (24, 24, 24)).astype(np.uint8), (2.0,) * 3)
    settings = Assessment(two_sample=True)
    found = measured(settings, lr, Volume(sr, (0.5,) * 3), images(), PHASES, 4)["two_sample"]
    for plane in ("axis planes", "planes at 45 degrees"):
        value = {key[:2]: float(text.split(" ")[0]) for key, text in found[plane].items() if key[:2] in ("SR", "LR")}
        assert value["LR"] > 0.95, (plane, value)
        assert 0.35 < value["SR"] < 0.65, (plane, value)
    assert 0.3 < float(found["axis planes"]["HR images against each other"].split(" ")[0]) < 0.7
    for name in ("real", "fake"):  # ten crops of 16 pixels from each of four folds, two pixels between
        assert Image.open(io.BytesIO(settings.pictures[name])).size == (4 * 18 - 2, 10 * 18 - 2)


def test_crops_at_45_degrees_are_images_to_the_network(monkeypatch):
    """One on another they would be a volume, and two thirds of what it is shown sections across them: of repeated voxels it could tell but half."""
    monkeypatch.setattr(assessment, "CROP", 16)
    monkeypatch.setattr(assessment, "CROPS", 80)
    asked = []
    monkeypatch.setattr(assessment, "two_sample_auc", lambda real, fake, *args, **kwargs: asked.append((real, fake)) or NOT_TOLD)
    monkeypatch.setattr(assessment, "real_reference", lambda *args, **kwargs: {"auc": 0.5, "std": None})
    lr, sr = Volume(np.zeros((24, 24, 24), np.uint8), (2.0,) * 3), Volume(np.zeros((96, 96, 96), np.uint8), (0.5,) * 3)
    measured(Assessment(two_sample=True), lr, sr, images(), PHASES, 4)
    assert len(asked) == 4 and len(as_arrays(asked[0][1])) == 1  # the volume itself, along its axes
    for pair in asked[2:]:
        assert [{array.shape for array in as_arrays(labels)} for labels in pair] == [{(16, 16)}] * 2


def test_one_image_set_a_plane_leaves_the_test_out(monkeypatch, caplog):
    """Crops of one image in two sets would be trained on and judged on."""
    monkeypatch.setattr(assessment, "two_sample_auc", lambda *args, **kwargs: pytest.fail("mixed the planes"))
    volume = Volume(np.zeros((8, 8, 8), np.uint8), (0.5,) * 3)
    lr = Volume(np.zeros((4, 4, 4), np.uint8), (1.0,) * 3)
    assert measured(Assessment(two_sample=True), lr, volume, {"xy": images()["all planes"], "xz": images()["all planes"]}, PHASES, 2) == {}
    assert caplog.text.count("two_sample: left out") == 1


@pytest.mark.parametrize(("plane", "axis"), [("xy", 0), ("xz", 1), ("yz", 2)])
def test_images_of_one_plane_are_compared_with_such_planes_alone(monkeypatch, plane, axis):
    """Every plane normal to the axis holds one label of its own."""
    monkeypatch.setattr(assessment, "CROP", 16)
    asked = []
    monkeypatch.setattr(assessment, "two_sample_auc", lambda real, fake, *args, **kwargs: asked.append(fake) or NOT_TOLD)
    monkeypatch.setattr(assessment, "real_reference", lambda *args, **kwargs: {"auc": 0.5, "std": None})
    coarse = np.moveaxis(np.broadcast_to(np.arange(24, dtype=np.uint8)[:, None, None], (24, 24, 24)), 0, axis)
    fine = np.moveaxis(np.broadcast_to(np.arange(96, dtype=np.uint8)[:, None, None], (96, 96, 96)), 0, axis)
    groups = {plane: images()["all planes"]}
    found = measured(Assessment(two_sample=True), Volume(coarse, (2.0,) * 3), Volume(fine, (0.5,) * 3), groups, PHASES, 4)["two_sample"]
    assert list(found) == [f"{plane} planes"] and "HR images against each other" in found[f"{plane} planes"]
    for volume, labels in zip(asked, (np.arange(96), np.arange(24).repeat(4)), strict=True):
        assert [(one.shape, np.unique(one).tolist()) for one in as_arrays(volume)] == [((96, 96), [label]) for label in labels]


@pytest.mark.parametrize(("settings", "message"), [
    ({"physics": 0}, "physics: 0; give a whole number of LR voxels"),
    ({"physics": True}, "physics: True; give a whole number of LR voxels"),
    ({"physics_cell": 0}, "physics_cell: 0; give a whole number of SR voxels"),
    ({"physics_cell": "x"}, "physics_cell: x; give a whole number of SR voxels"),
    ({"physics": "16"}, "physics: 16; give a whole number of LR voxels"),
    ({"conductivity": {"clay": -0.1}}, "conductivity: .* is not {phase: conductivity, 1 being"),
    ({"conductivity": {"clay": float("inf")}}, "conductivity"),
    ({"conductivity": {"clay": float("nan")}}, "conductivity"),
    ({"conductivity": {"clay": [1, 2]}}, "conductivity"),
    ({"conductivity": 0.2}, "conductivity"),
    ({"morphology": "maybe"}, "morphology: maybe is neither true nor false"),
    ({"moduli": {"salt": 3.0}}, "moduli: .* is not {phase: .bulk, shear.} in GPa"),
    ({"moduli": {"salt": [-3.0, 1.0]}}, "moduli"),
    ({"moduli": [1, 2]}, "moduli"),
])  # fmt: skip
def test_impossible_settings(settings, message):
    with pytest.raises(InputError, match=message):
        Assessment(**settings)


def test_flat_voxels_have_no_physics(volumes):
    lr, sr = volumes
    with pytest.raises(InputError, match="voxels of 1 x 0.5 x 0.5 µm: physics needs cubes"):
        measured(Assessment(physics=4), lr, Volume(sr.array, (1.0, 0.5, 0.5)), images(), PHASES, 4)


def test_cells_that_do_not_fit(volumes):
    lr, sr = volumes
    with pytest.raises(InputError, match="physics_cell: 4 LR voxels are 16 SR voxels, no multiple of 3"):
        measured(Assessment(physics=4, physics_cell=3), lr, sr, images(), PHASES, 4)


def test_what_would_fail_after_minutes_is_refused_before_anything_is_measured(volumes, monkeypatch):
    """A truth is asked for as well: it must not be compared first."""
    lr, sr = volumes
    monkeypatch.setattr(judging, "geometry_errors", lambda *args: pytest.fail("measured"))
    monkeypatch.setattr(Assessment, "_read_truth", lambda *args: sr.array)
    pytest.importorskip("skimage")
    with pytest.raises(InputError, match="set lr_voxel_size"):
        measured(Assessment("truth.tif", physics=4), lr, sr, images(), PHASES, 4, "SR voxels")
    with pytest.raises(InputError, match="too small for crops of 64"):
        measured(Assessment("truth.tif", two_sample=True), lr, sr, images(), PHASES, 4)
    thin = Volume(np.zeros((40, 400, 400), np.uint8), (0.5,) * 3)  # planes along z hold crops, those at 45 degrees do not
    with pytest.raises(InputError, match="no room for crops of 64 at 45 degrees"):
        measured(Assessment(two_sample=True), Volume(np.zeros((10, 100, 100), np.uint8), (2.0,) * 3), thin, {"hr": [np.zeros((300, 300), np.uint8)] * 4}, PHASES, 4)
    with pytest.raises(InputError, match=r"a part of 4 has shape \(50, 50\), too small for crops of 64"):  # a half of the images, in folds
        whole = Volume(np.zeros((400, 400, 400), np.uint8), (0.5,) * 3)
        measured(Assessment(two_sample=True), Volume(np.zeros((100,) * 3, np.uint8), (2.0,) * 3), whole, {"hr": [np.zeros((100, 100), np.uint8)] * 4}, PHASES, 4)


def test_without_a_voxel_size_nothing_is_in_micrometres(volumes):
    pytest.importorskip("skimage")
    lr, sr = volumes
    found = measured(Assessment(morphology=True), Volume(lr.array, (4.0,) * 3), Volume(sr.array, (1.0,) * 3), images(), PHASES, 4, "SR voxels")["morphology"]
    assert not [row for row in found if "µm" in row or "mm" in row]
    assert found["Euler number of pore per SR voxel"]["LR"] == pytest.approx(2 / (32 * 24 * 24))


def test_chords_of_images_stand_in_the_rows_of_their_axes(volumes):
    pytest.importorskip("skimage")
    lr, sr = volumes
    flat = Volume(sr.array, (2.0, 0.5, 0.5))
    stripes = np.ones((96, 96), np.uint8)
    stripes[4:92:8] = stripes[5:92:8] = 0  # pore chords of 2 pixels along the rows' axis, here z; none is whole along the other
    found = measured(Assessment(morphology=True), Volume(lr.array, (8.0, 2.0, 2.0)), flat, {"xz": [stripes]}, PHASES, 4)["morphology"]
    chords = [found[f"mean chord of pore along {axis}, µm"]["HR images"] for axis in "zyx"]
    assert chords == [pytest.approx(4.0), None, None]  # 2 pixels of 2 µm


@pytest.mark.parametrize(("size", "rows"), [
    ((0.5, 0.5, 0.502), ["axis planes", "planes at 45 degrees"]),  # as files round it
    ((1.0, 0.5, 0.5), ["axis planes"]),
])  # fmt: skip
def test_only_cubes_are_cut_at_45_degrees(monkeypatch, size, rows):
    monkeypatch.setattr(assessment, "CROP", 16)
    monkeypatch.setattr(assessment, "CROPS", 8)
    monkeypatch.setattr(assessment, "two_sample_auc", lambda *args, **kwargs: NOT_TOLD)
    monkeypatch.setattr(assessment, "real_reference", lambda *args, **kwargs: {"auc": 0.5, "std": None})
    lr, sr = Volume(np.zeros((24, 24, 24), np.uint8), (2.0,) * 3), Volume(np.zeros((96, 96, 96), np.uint8), size)
    assert list(measured(Assessment(two_sample=True), lr, sr, images(), PHASES, 4)["two_sample"]) == rows


def test_a_scan_of_one_plane_has_no_surface(volumes):
    lr, sr = volumes
    plane = lr.array[2:3].copy()
    plane[0, 0] = 1 - plane[0, 0]  # both phases are there
    lr, sr = Volume(plane, lr.voxel_size), Volume(sr.array[10:14], sr.voxel_size)
    rows = measured(Assessment(morphology=True), lr, sr, images(), PHASES, 4)["morphology"]
    surface = rows["surface of pore by voxel faces per volume, 1/µm"]
    assert surface["LR"] is None and surface["SR"] > 0


def test_moduli_that_are_given_count(monkeypatch):
    """A block of one mineral has its moduli, whoever knows them."""
    labels = Volume(np.ones((4, 4, 4), np.uint8), (2.0,) * 3)
    fine = Volume(np.ones((16, 16, 16), np.uint8), (0.5,) * 3)
    for phase, given, bulk in (("salt", {"salt": [24.8, 14.9]}, 24.8), ("calcite", None, 76.8), ("calcite", {"calcite": [70.0, 30.0]}, 70.0)):
        found = measured(Assessment(physics=4, physics_cell=4, moduli=given), labels, fine, images(), ("pore", phase), 4)["physics"]
        assert found["bulk modulus of the dry rock, GPa"]["SR"] == pytest.approx(bulk, rel=1e-5)


def test_conductivities_that_are_given_count():
    """Of layers along the current F = 1 / mean conductivity, of layers across it the mean resistance."""
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[2:] = 1
    fine = Volume(labels.repeat(4, 0).repeat(4, 1).repeat(4, 2), (0.5,) * 3)
    settings = Assessment(physics=4, physics_cell=4, conductivity={"clay": 0.25})
    found = measured(settings, Volume(labels, (2.0,) * 3), fine, images(), ("pore", "clay"), 4)["physics"]
    for axis, expected in (("z", (1 + 1 / 0.25) / 2), ("y", 2 / (1 + 0.25)), ("x", 2 / (1 + 0.25))):
        assert found[f"formation factor along {axis}"]["SR"] == pytest.approx(expected, rel=0.01), axis
    with pytest.raises(InputError, match="conductivity: salt is no phase here"):
        measured(Assessment(physics=4, physics_cell=4, conductivity={"salt": 1.0}), Volume(labels, (2.0,) * 3), fine, images(), ("pore", "clay"), 4)
