"""Trust in a label: the chance that it is right, against counts, an isotonic fit by hand, and voxels whose chances are known."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext

import numpy as np
import pytest

from bundle.errors import InputError
from bundle.trust import FORMAT, Trust, TrustCounts, beside_model, reliability, trust_summary

PHASES = ["pore", "quartz"]


def drawn(chances: np.ndarray, seeds: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, votes, agreement with the scan and truth of voxels that are right with `chances` [phase, same, votes]."""
    rng = np.random.default_rng(seed)
    labels, same = (rng.integers(0, 2, (size,) * 3).astype(np.uint8) for _ in range(2))
    agree = rng.integers(1, seeds + 1, labels.shape).astype(np.uint8)
    votes = np.where(labels == 0, [agree, seeds - agree], [seeds - agree, agree]).astype(np.uint8)
    right = rng.random(labels.shape) < chances[labels, same, agree]
    return labels, votes, same.astype(bool), np.where(right, labels, 1 - labels)


def test_it_learns_chances_that_rise_with_the_votes_and_keeps_its_word_elsewhere():
    rise = np.linspace(0, 1, 5)
    chances = np.array([[0.1 + 0.5 * rise, 0.5 + 0.5 * rise], [0.3 + 0.2 * rise, 0.9 + 0.05 * rise]])
    counts = TrustCounts(PHASES, 4)
    counts.add(*drawn(chances, 4, 60, 0))
    trust = counts.trust()
    assert counts.voxels.sum() == 60**3
    np.testing.assert_allclose(trust.table[:, :, 1:], chances[:, :, 1:], atol=0.02)
    labels, votes, same, truth = drawn(chances, 4, 50, 1)
    percent = trust.percent(labels, votes, 4, same)
    found = reliability(percent, labels == truth)
    assert found["error"] < 0.01
    for said, right, share in zip(found["said"], found["right"], found["share"]):
        assert share < 0.01 or abs(said - right) < 0.03
    assert reliability(100 * (votes.max(0) / 4), labels == truth)["error"] > 0.1  # bare votes do not


def test_the_fit_is_the_isotonic_one():
    """Of 10, 10 and 20 voxels with 1, 2 and 3 votes 6, 2 and 15 are right: the first two are pooled. Zero votes were never seen."""
    counts = TrustCounts(PHASES, 3)
    for agree, number, right in ((1, 10, 6), (2, 10, 2), (3, 20, 15)):
        labels, truth = np.zeros((1, 1, number), np.uint8), np.ones((1, 1, number), np.uint8)
        truth[..., :right] = 0
        votes = np.stack([np.full_like(labels, agree), np.full_like(labels, 3 - agree)])
        counts.add(labels, votes, np.ones_like(labels, bool), truth)
    table = counts.trust().table
    np.testing.assert_allclose(table[0, 1], [0.4, 0.4, 0.4, 0.75])
    np.testing.assert_allclose(table[1], 0.5)  # never occurred


def test_other_numbers_of_votes_go_by_the_share():
    trust = Trust(PHASES, np.broadcast_to(np.linspace(0, 0.8, 5), (2, 2, 5)))
    labels = np.zeros((1, 1, 3), np.uint8)
    votes = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)[:, None, None]
    assert trust.percent(labels, votes, 2, labels == 0).ravel().tolist() == [0, 40, 80]


def test_reliability_against_a_loop():
    rng = np.random.default_rng(2)
    percent, right = rng.integers(0, 101, 500), rng.random(500) < 0.6
    percent[percent < 20] = 100
    found = reliability(percent, right, bins=5)
    error = 0.0
    for i in range(5):
        inside = [k for k in range(500) if i * 20 <= percent[k] < (i + 1) * 20 or i == 4 and percent[k] == 100]
        if not inside:
            assert found["said"][i] is None and found["right"][i] is None and i == 0
            continue
        said, hit = np.mean(percent[inside]) / 100, np.mean(right[inside])
        assert (found["said"][i], found["right"][i]) == (pytest.approx(said), pytest.approx(hit))
        error += abs(said - hit) * len(inside) / 500
    assert found["error"] == pytest.approx(error) and found["brier"] == pytest.approx(np.mean((percent / 100 - right) ** 2))
    assert sum(found["share"]) == pytest.approx(1)


def test_a_chance_on_the_border_of_two_bins_is_in_the_upper_one():
    percent = np.arange(100, dtype=np.uint8)
    assert reliability(percent, percent > 0, bins=100)["share"] == pytest.approx([0.01] * 100)


def test_summary_of_a_map():
    percent = np.array([[[95, 90, 50, 5]]], np.uint8)
    assert trust_summary(percent) == {"mean": pytest.approx(0.6), "sure": 0.5}
    with pytest.raises(InputError, match="not made yet"):
        trust_summary(np.array([[[95, 255]]], np.uint8))


def test_it_survives_its_file(tmp_path):
    table = np.random.default_rng(3).random((2, 2, 5))
    Trust(PHASES, table, {"rock": "berea"}).save(tmp_path / "model_trust.json")
    found = Trust.load(str(tmp_path / "model_trust.json"), PHASES)  # as a config gives it
    np.testing.assert_allclose(found.table, table, atol=5e-5)
    assert found.seeds == 4 and found.made_from == {"rock": "berea"}
    assert beside_model(tmp_path / "model.pt") == str(tmp_path / "model_trust.json") and beside_model(tmp_path / "other.pt") is None


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), ("{", "cannot be read"), ("[]", "no table of trust"), (json.dumps({"format": "x"}), "no table of trust"),
     (json.dumps({"format": FORMAT, "phases": PHASES, "right": np.full((2, 2, 5), -0.1).tolist(), "made_from": {}}), "no number from 0 to 1"),
     (json.dumps({"format": FORMAT, "phases": PHASES, "right": np.full((2, 2, 5), np.nan).tolist(), "made_from": {}}), "no number from 0 to 1"),
     (json.dumps({"format": FORMAT}), "damaged table"), (json.dumps({"format": FORMAT, "phases": PHASES, "right": [1], "made_from": {}}), "damaged table")],
)
def test_bad_files(tmp_path, content, words):
    path = tmp_path / "trust.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=words):
        Trust.load(path, PHASES)


def test_other_phases_are_refused(tmp_path):
    Trust(PHASES, np.full((2, 2, 5), 0.5)).save(tmp_path / "t.json")
    with pytest.raises(InputError, match="is of the phases .*trust_file to null"):
        Trust.load(tmp_path / "t.json", ["pore", "clay"])


def test_other_weights_are_refused(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    for told, fits in (({"model_sha256": digest}, True), ({}, True), ({"model_sha256": "abc"}, False)):
        Trust(PHASES, np.full((2, 2, 5), 0.5), told).save(tmp_path / "t.json")
        with nullcontext() if fits else pytest.raises(InputError, match="is of other weights than .*model.pt; make it anew"):
            Trust.load(tmp_path / "t.json", PHASES, tmp_path / "model.pt")


def test_the_shipped_table_is_of_the_shipped_model(bundle_root):
    trust = Trust.load(bundle_root / "models" / "model_trust.json", ["pore", "quartz", "feldspar", "clay"], bundle_root / "models" / "model.pt")
    assert trust.seeds == 8 and (np.diff(trust.table) >= 0).all() and trust.table.min() >= 0 and trust.table.max() <= 1
