"""How far each label of a result can be trusted: the chance that it is right, from the votes of noise seeds, calibrated where the truth is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from bundle.errors import InputError
from bundle.io import write_text
from bundle.io.files import readable
from bundle.metrics.fractions import slabs
from bundle.provenance import sha256
from bundle.votes import agreeing, in_slabs

FORMAT = "rock-super-resolution trust 1"
WITHOUT = 'set trust_file to null (on the command line to "")'


def beside_model(model_file: str | Path) -> str | None:
    """`<name of the model>_trust.json` beside it, or None where there is none."""
    path = Path(model_file).with_name(f"{Path(model_file).stem}_trust.json")
    return str(path) if path.is_file() else None


class Trust:
    """The chance that a label is right, by phase, by whether the scan says the same, and by the share of noise seeds that say so.

    The table is learned on rock whose truth is known: of all voxels alike in these three, the share that is right, made to rise with the votes
    (isotonic regression, Zadrozny & Elkan 2002). It holds for rocks like those; `seeds` is the number of votes it was learned with.

    Args:
        phases: names of the labels.
        table: chance (phases, 2, seeds + 1): phase, scan says otherwise or the same, number of seeds that agree (the result's own one counts).
        made_from: what it was learned from, to be told.
    """

    def __init__(self, phases: Sequence[str], table: np.ndarray, made_from: Mapping[str, Any] | None = None):
        self.phases, self.table, self.made_from = list(phases), np.asarray(table, float), dict(made_from or {})
        if self.table.ndim != 3 or self.table.shape[:2] != (len(self.phases), 2) or self.table.shape[2] < 3:
            raise ValueError(f"a table of {len(self.phases)} phases, 2, and at least 3 votes is needed, not {self.table.shape}")

    @property
    def seeds(self) -> int:
        return self.table.shape[2] - 1

    def percent(self, labels: np.ndarray, votes: np.ndarray, number: int, same: np.ndarray) -> np.ndarray:
        """Chance that labels (z, y, x) are right, in whole per cent, uint8.

        Args:
            labels: the result.
            votes: uint8 (phases, z, y, x), how many of `number` seeds gave each phase; another number than `seeds` goes by the share.
            number: of seeds.
            same: (z, y, x), whether the scan has the label there.
        """
        shares = np.arange(number + 1) / number
        table = np.stack([[np.interp(shares, np.arange(self.seeds + 1) / self.seeds, row) for row in phase] for phase in self.table])
        percent = np.rint(100 * table).astype(np.uint8)
        return in_slabs(lambda own, cast, like: percent[own, like.astype(np.uint8), agreeing(own, cast)], labels, votes, same)

    def save(self, path: str | Path) -> None:
        """Write it as JSON.

        Raises:
            InputError: it cannot be written.
        """
        content = {"format": FORMAT, "phases": self.phases, "made_from": self.made_from, "right": self.table.round(4).tolist()}
        write_text(path, json.dumps(content) + "\n")

    @classmethod
    def load(cls, path: str | Path, phases: Sequence[str], model_file: str | Path | None = None) -> Trust:
        """Read what `save` wrote.

        Args:
            path: of the file.
            phases: names of the labels.
            model_file: the weights that it must be of, as far as it says of which it is.

        Raises:
            InputError: the file cannot be read, is no such table, or is of other phases or weights.
        """
        with readable(Path(path)):
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(f"{path}: no table of trust; give what scripts/experiments.py trust writes, or {WITHOUT}")
        try:
            trust = cls(content["phases"], np.array(content["right"]), content["made_from"])
            if not ((trust.table >= 0) & (trust.table <= 1)).all():
                raise ValueError("a chance is no number from 0 to 1")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: a damaged table of trust ({error}); make it anew (scripts/experiments.py trust), or {WITHOUT}") from error
        if content["phases"] != list(phases):
            raise InputError(f"{path}: is of the phases {content['phases']}, the config has {list(phases)}; {WITHOUT}")
        expected = trust.made_from.get("model_sha256")
        if model_file and expected and expected != sha256(model_file):
            raise InputError(f"{path}: is of other weights than {model_file}; make it anew (scripts/experiments.py trust), or {WITHOUT}")
        return trust


class TrustCounts:
    """Voxels and right voxels by phase, whether the scan says the same, and votes: from them follows a `Trust`.

    Args:
        phases: names of the labels.
        seeds: number of votes.
    """

    def __init__(self, phases: Sequence[str], seeds: int):
        self.phases, self.seeds = list(phases), seeds
        self.voxels, self.right = (np.zeros((len(self.phases), 2, seeds + 1), np.int64) for _ in range(2))

    def add(self, labels: np.ndarray, votes: np.ndarray, same: np.ndarray, truth: np.ndarray) -> None:
        """Count a result (z, y, x) with its votes (phases, z, y, x), whether the scan has its labels, and the truth."""
        place = np.ravel_multi_index((labels, same.astype(np.uint8), agreeing(labels, votes)), self.voxels.shape).ravel()
        for counts, weights in ((self.voxels, None), (self.right, (labels == truth).ravel())):
            counts += np.bincount(place, weights, counts.size).reshape(counts.shape).astype(np.int64)

    def trust(self, made_from: Mapping[str, Any] | None = None) -> Trust:
        """The table. A cell without voxels lies on the line between those of the next numbers of votes that occurred, and says what the outermost one
        says beyond them; one of a kind that never occurred says a half."""
        table = np.full(self.voxels.shape, 0.5)
        for phase, same in np.ndindex(*self.voxels.shape[:2]):
            seen = np.flatnonzero(self.voxels[phase, same])
            if len(seen):
                counts = self.voxels[phase, same, seen]
                fitted = isotonic_regression(self.right[phase, same, seen] / counts, weights=counts).x
                table[phase, same] = np.interp(np.arange(self.seeds + 1), seen, fitted)
        return Trust(self.phases, table, made_from)


def trust_summary(percent: Any) -> dict[str, float]:
    """What a map of trust, per cent (z, y, x), says of the whole: `mean` chance that a label is right, and `sure`, the share of voxels of 90 % and
    more.

    Raises:
        InputError: parts of it are not made yet.
    """
    counts = np.zeros(256, np.int64)
    for slab in slabs(percent):
        counts += np.bincount(np.asarray(slab).ravel(), minlength=256)
    if counts[101:].any():
        raise InputError("the trust holds parts that are not made yet (255): finish the inference, or remove its store")
    return {"mean": float(counts @ np.arange(256) / counts.sum() / 100), "sure": float(counts[90:].sum() / counts.sum())}


def reliability(percent: np.ndarray, right: np.ndarray, bins: int = 10) -> dict[str, Any]:
    """Whether what is said to be right in so many per cent is (reliability diagram; Guo et al. 2017).

    Args:
        percent: 0 to 100, of any shape.
        right: bool, the same shape.
        bins: of equal width.

    Returns:
        `said` and `right`: mean of each bin, None where it has no voxel; `share`: of the voxels in each bin; `error`: mean distance of the two,
        weighted by the share (expected calibration error); `brier`: mean squared error of the chances.
    """
    chance, right = percent.ravel() / 100, right.ravel()
    place = np.minimum((percent.ravel().astype(float) * bins / 100).astype(int), bins - 1)  # .29 x 100 is a hair below 29
    number = np.bincount(place, minlength=bins)
    said, hit = (np.bincount(place, values, bins) / np.maximum(number, 1) for values in (chance, right))
    return {
        "said": [float(s) if n else None for s, n in zip(said, number)],
        "right": [float(h) if n else None for h, n in zip(hit, number)],
        "share": (number / number.sum()).tolist(),
        "error": float((np.abs(said - hit) * number).sum() / number.sum()),
        "brier": float(np.mean((chance - right) ** 2)),
    }
