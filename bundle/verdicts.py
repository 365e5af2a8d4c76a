"""What the numbers of an evaluation say, in words: rules, of which each names its numbers and claims no more than they do."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

GOOD, WARN, BAD, NOTE = "good", "warn", "bad", "note"

KEPT_GOOD, KEPT_BAD = 0.95, 0.5  # share of the LR voxels of a phase
INSIDE_GOOD = 0.9  # share of the lags at which a curve of SR lies in the band of the images
STAIRCASE_WARN = 0.45  # share of the places in which the surface follows the LR voxels and not a smooth one
SEED_WARN = 0.2  # standard deviation over seeds / mean


class Verdict(NamedTuple):
    """A mark (`good`, `warn`, `bad`, or `note`, which judges nothing) and a sentence."""

    mark: str
    text: str


def verdicts(result: Mapping[str, Any]) -> list[Verdict]:
    """All that can be said of the result of `bundle.evaluation.Evaluation.run`, the most general first."""
    found = _input(result.get("provenance") or {})
    several = len(result["groups"]) > 1
    for group, summary in result["groups"].items():
        of_group = [*_error(summary), *_nearer(summary["statistics"]), *_fractions(summary, result["phases"])]
        of_group += [*_areas(summary, result["phases"]), *_curves(summary, result["two_point"][group], result["phases"])]
        of_group += _seeds(summary, result["phases"])
        found += [Verdict(mark, f"{group}: {text}" if several else text) for mark, text in of_group]
    return found + _kept(result["lr_agreement"]) + _staircase(result["staircase"], result["phases"]) + _trust(result.get("trust"))


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, in decimals and without the 0 before the point: .045, 1.50, 1234."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return _decimals(value, decimals)


def plus_minus(mean: float, deviation: float) -> str:
    """Mean ± standard deviation with the decimals that give three significant digits of the mean and at least one of the deviation."""
    decimals = [max(0, n - 1 - int(np.floor(np.log10(abs(value))))) for value, n in ((mean, 3), (deviation, 1)) if value]
    return " ± ".join(_decimals(value, max(decimals, default=0)) for value in (mean, deviation))


def percent(share: float, decimals: int = 1) -> str:
    """A share in per cent; 100 and 0 only where it is that, not where it is rounded to it."""
    step, text = 10.0**-decimals, f"{100 * share:.{decimals}f}"
    if 0 < share < 1 and float(text) == 100:
        return f"over {100 - step:.{decimals}f} %"
    if 0 < share < 1 and float(text) == 0:
        return f"under {step:.{decimals}f} %"
    return f"{text} %"


def _decimals(value: float, decimals: int) -> str:
    """Without the 0 before the point."""
    text = f"{value:.{decimals}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _unlike(*values: float) -> list[str]:
    """The values with as many digits as it takes to tell those apart that differ, seven at most."""
    for digits in range(3, 8):
        texts = [number(value, digits) for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return texts


def _input(provenance: Mapping[str, Any]) -> list[Verdict]:
    made_from = provenance.get("inference") or {}
    expected = (made_from.get("input") or {}).get("labels_sha256")
    found = provenance["files"]["lr_image"]["labels_sha256"] if expected else None
    if not expected:
        return []
    if expected == found:
        return [Verdict(GOOD, f"The LR labels are those that SR was made from, by their checksum ({found[:12]}…).")]
    text = f"The LR labels (checksum {found[:12]}…) are not those that SR was made from ({expected[:12]}…)"
    return [Verdict(BAD, f"{text}: check lr_image, lr_region, lr_labels and sr_image.")]


def _staircase(found: Mapping[str, Any], phases: Sequence[str]) -> list[Verdict]:
    if found["share"] is None:
        return []
    between = " and ".join(phases[label] for label in found["labels"])
    text = f"Where a smooth surface between {between} and the voxels of LR part, SR follows the voxels at {percent(found['share'], 0)} of the places"
    mark = GOOD if found["share"] <= STAIRCASE_WARN else WARN
    return [Verdict(mark, f"{text}; the truth of synthetic rock does at about 30 %.")]


def _trust(trust: Mapping[str, Any] | None) -> list[Verdict]:
    if not trust:
        return []
    text = f"In the mean a label of SR is right with a chance of {percent(trust['mean'])}, {percent(trust['sure'])} of the voxels with 90 % or more"
    return [Verdict(NOTE, f"{text}: by the votes of the seeds, as they hit where the truth is known.")]


def _error(summary: Mapping[str, Any]) -> list[Verdict]:
    error, noise, images = summary["mean_relative_error"], summary["hr_noise"], summary["hr_images"]
    number_of = sum(row["hr"] != 0 for row in summary["statistics"].values())
    if error["sr"] is None or error["lr"] is None:
        return [Verdict(NOTE, "All statistics are 0 in the HR images: there is no relative error.")]
    sr, lr = percent(error["sr"]), percent(error["lr"])
    mark, word = (GOOD, "less than") if error["sr"] < error["lr"] else (BAD, "no less than")
    text = f"In the mean of {number_of} statistics SR is off the mean of the HR images by {sr}, {word} LR, which is off by {lr}."
    found = [Verdict(mark, text)]
    if not noise or noise["bootstrap_95"] is None:
        return found
    source = f"as many drawn from the {images} images with replacement" if images > 1 else "quarters of the one image, drawn with replacement,"
    limits = f"{percent(noise['bootstrap_median'])} in the median, {percent(noise['bootstrap_95'])} at the 95th percentile"
    larger = error["sr"] > noise["bootstrap_95"]
    text = f"The error of SR ({sr}) is {'' if larger else 'not '}larger than the noise of the images ({source} are off by {limits})."
    return [*found, Verdict(WARN if larger else GOOD, text)]


def _nearer(rows: Mapping[str, Mapping[str, float]]) -> list[Verdict]:
    distance = {name: (abs(row["sr"] - row["hr"]), abs(row["lr"] - row["hr"])) for name, row in rows.items()}
    nearer = sum(sr < lr for sr, lr in distance.values())
    farther = [name for name, (sr, lr) in distance.items() if sr > lr]
    text = f"SR is nearer to the mean of the HR images than LR in {nearer} of {len(rows)} statistics"
    equal = len(rows) - nearer - len(farther)
    if equal:
        text += f", as near in {equal}"
    if farther:
        text += f"; farther in: {', '.join(f'{name} ({_three(rows[name])})' for name in farther)}"
    mark = BAD if len(farther) >= max(nearer, 1) else WARN if farther or not nearer else GOOD
    return [Verdict(mark, text + ".")]


def _three(row: Mapping[str, float]) -> str:
    lr, sr, hr = _unlike(row["lr"], row["sr"], row["hr"])
    return f"LR {lr}, SR {sr}, HR {hr}"


def _fractions(summary: Mapping[str, Any], phases: Sequence[str]) -> list[Verdict]:
    images, rows = summary["hr_images"], summary["statistics"]
    which = "SR (the seed shown)" if "seeds" in summary else "SR"
    if images < 2:
        return [Verdict(NOTE, "With one HR image nothing can be said about the spread between images.")]
    found = []
    for phase in phases:
        row = rows[phase]
        low, high = row["hr_min"], row["hr_max"]
        value, least, most, lr = _unlike(row["sr"], low, high, row["lr"])
        band = f"({least} to {most}; LR {lr})"
        outside = _outside(row)
        if not outside:
            found.append(Verdict(GOOD, f"The {phase} fraction of {which}, {value}, lies within the spread of the {images} HR images {band}."))
            continue
        text = f"The {phase} fraction of {which}, {value}, lies outside the spread of the {images} HR images {band}"
        if outside > high - low:
            found.append(Verdict(BAD, f"{text}, farther than that is wide."))
        else:
            found.append(Verdict(WARN, f"{text}; one more image of the same kind would lie outside by chance in 2 of {images + 1} cases."))
    return found


def _outside(row: Mapping[str, float]) -> float:
    """How far SR lies outside the range of the HR images, 0 within."""
    return max(row["hr_min"] - row["sr"], row["sr"] - row["hr_max"], 0)


def _areas(summary: Mapping[str, Any], phases: Sequence[str]) -> list[Verdict]:
    images = summary["hr_images"]
    rows = {name: row for name, row in summary["statistics"].items() if name not in phases}
    if images < 2 or not rows:
        return []
    outside = {name: row for name, row in rows.items() if _outside(row)}
    text = f"{len(rows) - len(outside)} of {len(rows)} interfacial areas of SR lie within the spread of the {images} HR images"
    if outside:
        values = {name: _unlike(row["sr"], row["hr_min"], row["hr_max"]) for name, row in outside.items()}
        text += f"; outside: {', '.join(f'{name} (SR {sr}, HR {low} to {high})' for name, (sr, low, high) in values.items())}"
    farther = [row for row in outside.values() if _outside(row) > row["hr_max"] - row["hr_min"]]
    if outside and not farther:
        text += f"; one more image of the same kind would lie outside in each by chance in 2 of {images + 1} cases"
    return [Verdict(GOOD if not outside else BAD if 2 * len(farther) > len(rows) else WARN, text + ".")]


def _curves(summary: Mapping[str, Any], curves: Mapping[str, Mapping], phases: Sequence[str]) -> list[Verdict]:
    if summary["hr_images"] < 2:
        return []
    lag, hr, found = np.asarray(curves["SR"]["lag"]), curves["HR"], []
    lag = lag[lag <= hr["lag"][-1]]
    for label, phase in enumerate(phases):
        low, high = (np.interp(lag, hr["lag"], hr[edge][label]) for edge in ("min", "max"))
        sr = np.asarray(curves["SR"]["mean"][label])[: len(lag)]
        share = float(np.mean((sr >= low) & (sr <= high)))
        band = f"the band of the {summary['hr_images']} HR images"
        text = f"The two-point curve of {phase} of SR lies in {band} at {percent(share, 0)} of the distances."
        found.append(Verdict(GOOD if share >= INSIDE_GOOD else WARN, text))
    return found


def _seeds(summary: Mapping[str, Any], phases: Sequence[str]) -> list[Verdict]:
    seeds = summary.get("seeds")
    if not seeds:
        return [Verdict(NOTE, "SR is of one seed of the noise: how much of it is chance is not known (set sr_images).")]
    errors = [error for error in seeds["mean_relative_error"] if error is not None]
    found = []
    if errors:
        text = f"Over {seeds['number']} seeds the mean relative error of SR is {percent(np.mean(errors))} ± {percent(np.std(errors, ddof=1))}"
        found.append(Verdict(NOTE, f"{text} ({percent(min(errors))} to {percent(max(errors))}); the lines that name no seeds are of the one shown."))
    for phase in phases:
        row = summary["statistics"][phase]
        if not row["sr_mean"]:
            continue
        variation, steady = row["sr_std"] / row["sr_mean"], row["sr_std"] <= SEED_WARN * row["sr_mean"]
        value = plus_minus(row["sr_mean"], row["sr_std"])
        text = f"Over {seeds['number']} seeds the {phase} fraction of SR is {value}, varying by {percent(variation)} of it"
        inside = sum(row["hr_min"] <= value <= row["hr_max"] for value in row["sr_values"])
        if summary["hr_images"] > 1:
            text += f"; within the spread of the HR images with {inside} of {seeds['number']} seeds"
            steady = steady and inside == seeds["number"]
        found.append(Verdict(GOOD if steady else WARN, text + "."))
    return found


def _kept(agreement: Mapping[str, Any]) -> list[Verdict]:
    """What became a phase of which LR holds none is told, but not held against the result: the scan cannot contradict what it does not know."""
    found, names = [], list(agreement["kept"])
    absent = [i for i, share in enumerate(agreement["kept"].values()) if share is None]
    for i, (name, share) in enumerate(agreement["kept"].items()):
        if share is None:
            found.append(Verdict(NOTE, f"LR holds no {name}."))
            continue
        row = np.array(agreement["confusion"][i])
        known = row[i] / max(row.sum() - row[absent].sum(), 1)
        text = f"LR {name} is kept in {percent(share)} of its {row.sum():,} voxels (majority of the SR voxels in each)"
        if share < KEPT_GOOD:
            row[i] = -1
            other = int(row.argmax())
            text += f"; most of the others became {names[other]} ({row[other]:,})"
            unknown = [names[j] for j in absent if row[j]]
            if unknown:
                text += f"; LR holds no {' and no '.join(unknown)}: without what became {' or '.join(unknown)} {percent(known)} are kept"
        found.append(Verdict(GOOD if known >= KEPT_GOOD else WARN if known >= KEPT_BAD else BAD, text + "."))
    return found
