"""Gates: may a set of images stand for the real HR images in a training? Each gate is a measure with its limit, and says why.

A generator that learns from few images, and a super-resolution that learns from the generator, are a game of telephone: what the first misses the
second never hears of. So a set is compared with the real images before it may teach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
from scipy import fft
from scipy.stats import norm
from scipy.stats import t as student_t

from bundle.errors import InputError
from bundle.metrics.correlation import two_point
from bundle.metrics.diversity import image_distance
from bundle.metrics.fractions import as_arrays, bin_labels
from bundle.metrics.interfaces import face_counts
from bundle.metrics.morphology import run_lengths
from bundle.metrics.summary import mean_relative_error, statistic_names, statistics
from bundle.metrics.two_sample import FOLDS, SYMMETRIES, draw_crops, parts, real_reference, reference_splits, square_symmetry, two_sample_auc

SAMPLES = 1000  # of the bootstrap
BEYOND = 0.5  # of the range of the real images, by which a statistic of the set may lie outside it: of four images of one rock one lies outside that of the
# other three every second time in one or the other of ten statistics
LEVEL = 0.99  # of the band of a curve: there are two curves a phase, and all must pass
SLACK = 0.01  # of a curve's largest value, by which it may leave the band: where all chords of the images are shorter, their band is a line
INSIDE = 0.95  # share of a curve that must lie in its band
MOST_AUC = 0.75  # of the two-sample test
PLACES = 512  # of crops along each axis of an image, that are searched at a time: it takes 70 bytes a pixel
COPIES = 0.05  # share of the crops that may repeat a real one
PAIRS = 300  # of images, whose distance is measured
LEAST_DIVERSITY = 0.8  # distance of two images, and spread of their fractions, against those of real ones


def gate_images(
    real: Sequence[np.ndarray],
    made: Sequence[np.ndarray],
    phases: Sequence[str],
    held_out: Sequence[np.ndarray] | None = None,
    edge: int = 64,
    steps: int = 700,
    crops: int = 24,
    seed: int = 0,
) -> dict:
    """Passes a set of images through all gates.

    Args:
        real: images (y, x) that the set is to stand for, 2 or more.
        made: the set: images of one size, not larger than the real ones.
        phases: names of the labels.
        held_out: real images that nobody learned from, for the two-sample test; None = `real`.
        edge: of the crops of the two-sample test and of the search for copies, pixels.
        steps: of the training of the two-sample test in each fold.
        crops: that are searched for in the real images.
        seed: of all that is random.

    Returns:
        JSON-ready: `passed`; `gates`: by name {"passed", "text", and the figures}; `statistics_error`, see `statistics_error`; `curves`, for a
        picture: by kind {"band": (2, n_phases, lags), "made": (n_phases, lags)}.

    Raises:
        InputError: fewer than 2 images of either kind, several sizes in the set, or images too small for the crops.
    """
    real, made = as_arrays(real), as_arrays(made)
    n = len(phases)
    for images, kind in ((real, "real"), (made, "made")):
        if len(images) < 2:
            raise InputError(f"{len(images)} {kind} image: a spread needs 2 or more")
    if len({image.shape for image in made}) > 1:
        raise InputError("the images of the set differ in size; cut them to one size")
    if any(a < b for image in real for a, b in zip(image.shape, made[0].shape)):
        raise InputError(f"a real image is smaller than those of the set ({made[0].shape[0]} x {made[0].shape[1]}); cut the set's to its size")
    if min(made[0].shape) < edge:
        raise InputError(f"images of {made[0].shape[0]} x {made[0].shape[1]} pixels are smaller than crops of {edge}; lower edge")
    others = real if held_out is None else as_arrays(held_out)
    for images in (others, made):  # now, not when networks were trained on the rest
        parts(images, FOLDS, edge)
    reference_splits(real, seed=seed, edge=edge)
    rng = np.random.default_rng(seed)
    tiles = [cut_tiles(image, made[0].shape) for image in real]
    gates = {"statistics": statistics_gate(real, made, phases)}
    curves = {}
    for name, curve in (("two-point", two_point_curves), ("chords", chord_curves)):
        gates[name], curves[name] = _curves(curve, tiles, made, phases, rng)
    gates["two-sample"] = _two_sample(others, real, made, n, edge, steps, seed)
    gates["memorisation"] = _memorisation(real, made, edge, crops, n, rng)
    gates["diversity"] = _diversity(tiles, made, n, rng)
    return {
        "passed": all(gate["passed"] for gate in gates.values()),
        "gates": gates,
        "statistics_error": statistics_error(real, made, n, seed),
        "curves": curves,
    }


def cut_tiles(image: np.ndarray, shape: Sequence[int]) -> list[np.ndarray]:
    """Tiles of a shape side by side from the first corner on; what is left over is not used."""
    h, w = shape
    return [image[y : y + h, x : x + w] for y in range(0, image.shape[0] - h + 1, h) for x in range(0, image.shape[1] - w + 1, w)]


def statistics_error(real: Sequence[np.ndarray], made: Sequence[np.ndarray], n_phases: int, seed: int = 0) -> dict:
    """Mean relative error of the statistics of a set against the mean of the real images, with what sampling does to it.

    Returns:
        `error`; `low` and `high`, its 2.5th and 97.5th percentile when the images of the set are drawn with replacement; `real`, the
        median error of the real images themselves, drawn with replacement: nobody can be told from them below it.
    """
    wanted, found = (np.stack([statistics(image, n_phases) for image in images]) for images in (real, made))
    rng = np.random.default_rng(seed)
    ours, theirs = (mean_relative_error(_redrawn_means(values, rng), wanted.mean(0)) for values in (found, wanted))
    low, high = np.percentile(ours, [2.5, 97.5])
    error = mean_relative_error(found.mean(0), wanted.mean(0))
    return {"error": float(error), "low": float(low), "high": float(high), "real": float(np.median(theirs))}


def _redrawn_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means over the first axis, its members drawn with replacement: (n, ..) -> (SAMPLES, ..)."""
    weights = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), SAMPLES) / len(values)
    return np.tensordot(weights, values, 1)


def statistics_gate(real: Sequence[np.ndarray], made: Sequence[np.ndarray], phases: Sequence[str]) -> dict:
    """Fractions and areas of the set, inside the range of the real images or not far beyond."""
    wanted = np.stack([statistics(image, len(phases)) for image in real])
    found = np.mean([statistics(image, len(phases)) for image in made], 0)
    low, high = wanted.min(0), wanted.max(0)
    unseen = 3 / (2 * sum(image.size for image in real))  # what was never seen may yet be as frequent (95 %, the rule of three)
    values, outside = {}, []
    for name, value, least, most in zip(statistic_names(phases), found, low, high):
        values[name] = {"made": float(value), "least": float(least), "most": float(most)}
        beyond = BEYOND * (most - least) + unseen
        if not least - beyond <= value <= most + beyond:
            outside.append(f"{name} {value:.4g} (images {least:.4g} to {most:.4g})")
    text = f"{len(values) - len(outside)} of {len(values)} fractions and areas in or near the range of the real images"
    return {"passed": not outside, "text": text + (f"; outside: {', '.join(outside)}" if outside else ""), "values": values}


def two_point_curves(images: Sequence[np.ndarray], n_phases: int) -> np.ndarray:
    """Mean of S2 along both axes -> (n_phases, lags), lags up to half of the smallest image's shorter side."""
    most = min(min(image.shape) for image in images) // 2
    return np.mean([two_point(images, n_phases, axis, most) for axis in (0, 1)], 0)


def chord_curves(images: Sequence[np.ndarray], n_phases: int) -> np.ndarray:
    """Share of the whole chords along both axes that are not longer -> (n_phases, lags), lags up to half an image; 1 where there is no chord.

    Images of one size lose equally many to their borders, so only such may be compared.
    """
    most = min(images[0].shape) // 2
    counts = np.zeros((n_phases, max(images[0].shape) + 1))
    for image in images:
        for phase in range(n_phases):
            for axis in (0, 1):
                whole = run_lengths(image == phase, axis)[0]
                counts[phase, : len(whole)] += whole
    total = counts.sum(1, keepdims=True)
    return np.where(total > 0, counts.cumsum(1) / np.maximum(total, 1), 1.0)[:, : most + 1]


def _curves(
    curve: Callable[[Sequence[np.ndarray], int], np.ndarray],
    tiles: Sequence[list[np.ndarray]],
    made: Sequence[np.ndarray],
    phases: Sequence[str],
    rng: np.random.Generator,
) -> tuple[dict, dict]:
    """The curves of the set, inside the bootstrap band of the real images, which are drawn with replacement.

    The band of a few images is too narrow: redrawn means of n scatter less than true ones by (n - 1) / n in the variance, and their quantiles are
    those of a normal distribution instead of Student's. It is widened by both.
    """
    each = np.stack([curve(image, len(phases)) for image in tiles])
    n, mean = len(each), each.mean(0)
    tails = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    wider = student_t.ppf(tails[1], n - 1) / norm.ppf(tails[1]) * np.sqrt(n / (n - 1))
    band = np.clip(mean + wider * (np.quantile(_redrawn_means(each, rng), tails, axis=0) - mean), 0, 1)
    found = curve(made, len(phases))
    slack = SLACK * each.max((0, 2))[:, None]
    inside = ((found >= band[0] - slack) & (found <= band[1] + slack))[:, 1:].mean(1)
    short = {phase: share for phase, share in zip(phases, inside) if share < INSIDE}
    text = f"{len(phases) - len(short)} of {len(phases)} curves in the band of the real images"
    if short:
        text += f"; outside: {', '.join(f'{phase} ({100 * share:.0f} % of its lags inside)' for phase, share in short.items())}"
    gate = {"passed": not short, "text": text, "inside": dict(zip(phases, inside.tolist()))}
    return gate, {"band": band.tolist(), "made": found.tolist()}


def _two_sample(
    held_out: Sequence[np.ndarray], real: Sequence[np.ndarray], made: Sequence[np.ndarray], n_phases: int, edge: int, steps: int, seed: int
) -> dict:
    """Can a network tell the set from real images? No better than the limit, or than it tells real ones from each other."""
    found = two_sample_auc(held_out, made, n_phases, edge, steps=steps, seed=seed)
    reference = real_reference(real, n_phases, edge=edge, steps=steps, seed=seed)["auc"]
    limit = max(MOST_AUC, reference)
    text = f"AUC {found['auc']:.2f} ± {found['error']:.2f} (limit {limit:.2f}; real images against each other {reference:.2f})"
    return {"passed": found["auc"] <= limit, "text": text, "auc": found["auc"], "error": found["error"], "reference": reference}


def best_matches(crops: Sequence[np.ndarray], images: Sequence[np.ndarray], n_phases: int) -> list[float]:
    """How well each of some crops is found again in images, at any place and under any of the 8 symmetries.

    (agreement - m) / (1 - m), agreement the share of its pixels that have the same label there, m the share of its most frequent label: 1 for a copy,
    0 where nothing agrees better than a uniform place. By Fourier transform: all places of a block at once.

    Args:
        crops: (h, h) labels of more than one phase, of one size.
        images: (y, x), none smaller than a crop.
        n_phases: labels are 0..n_phases-1.
    """
    if not crops:
        return []
    best = np.zeros(len(crops))
    for block in _blocks(images, len(crops[0])):
        shape = [fft.next_fast_len(size, real=True) for size in block.shape]
        spectra = [fft.rfft2(block == phase, shape) for phase in range(n_phases)]
        for i, crop in enumerate(crops):
            places = tuple(slice(a - b + 1) for a, b in zip(block.shape, crop.shape))
            for turn in range(SYMMETRIES):
                turned = square_symmetry(crop, turn)
                agreement = sum(spectra[p] * fft.rfft2(turned == p, shape).conj() for p in range(n_phases))
                best[i] = max(best[i], fft.irfft2(agreement, shape)[places].max() / crop.size)
    most = np.array([bin_labels(crop, n_phases).max() / crop.size for crop in crops])
    return ((best - most) / (1 - most)).tolist()


def _blocks(images: Sequence[np.ndarray], edge: int) -> Iterator[np.ndarray]:
    """Blocks of images that together hold every place of a crop of an edge once, at most `PLACES` along each axis."""
    for image in images:
        for y, x in product(*(range(0, size - edge + 1, PLACES) for size in image.shape)):
            yield image[y : y + PLACES + edge - 1, x : x + PLACES + edge - 1]


def _memorisation(real: Sequence[np.ndarray], made: Sequence[np.ndarray], edge: int, number: int, n_phases: int, rng: np.random.Generator) -> dict:
    """Crops of the set that are found again in the real images, against crops of each real image that are looked for in the others."""
    ours = best_matches(_varied_crops(made, number, edge, n_phases, rng), real, n_phases)
    theirs = []
    for i, image in enumerate(real):
        others = [other for j, other in enumerate(real) if j != i]
        theirs += best_matches(_varied_crops([image], max(1, number // len(real)), edge, n_phases, rng), others, n_phases)
    limit = 0.5 * (1 + max(theirs, default=0.0))
    copied = float(np.mean(np.array(ours) > limit)) if ours else 0.0
    told = [f"{np.median(matches):.2f} in the median, {max(matches):.2f} at most" if matches else "none" for matches in (ours, theirs)]
    text = f"{100 * copied:.0f} % of {len(ours)} crops are copies (match over {limit:.2f}); matches {told[0]}; of one real image in the others {told[1]}"
    return {"passed": copied <= COPIES, "text": text, "copied": copied, "limit": limit, "made": sorted(ours), "real": sorted(theirs)}


def _varied_crops(images: Sequence[np.ndarray], number: int, edge: int, n_phases: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Of ten times as many crops those with the most interface: a corner of two grains is found everywhere, and a single phase anywhere."""
    crops = draw_crops(images, 10 * number, edge, rng)
    faces = np.array([np.triu(face_counts(crop, n_phases).sum(0), 1).sum() for crop in crops])
    return [crops[i] for i in np.argsort(-faces, kind="stable")[:number] if faces[i]]


def _diversity(tiles: Sequence[list[np.ndarray]], made: Sequence[np.ndarray], n_phases: int, rng: np.random.Generator) -> dict:
    """Distance of two images of the set, and spread of their fractions, against tiles of the real images."""
    kinds = [[tile for image in tiles for tile in image], list(made)]
    distances, spreads = [], []
    for images in kinds:
        distances.append(float(np.mean([image_distance(images[a], images[b]) for a, b in _pairs(len(images), PAIRS, rng)])))
        # n - 1: over n four images would spread 12 % less than sixteen of the same kind.
        spreads.append(float(np.mean(np.std([bin_labels(image, n_phases) / image.size for image in images], 0, ddof=1))))
    distance, spread = (made_ / real_ if real_ else 1.0 for real_, made_ in (distances, spreads))  # real images that are alike ask for nothing
    text = f"two images differ {distance:.2f} times as much as two real ones, their fractions spread {spread:.2f} times as much (least {LEAST_DIVERSITY:g})"
    return {"passed": min(distance, spread) >= LEAST_DIVERSITY, "text": text, "distance": distance, "spread": spread}


def _pairs(n: int, most: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Pairs of n members, all or `most` of them drawn without replacement."""
    first = np.concatenate([[0], np.cumsum(np.arange(n - 1, 0, -1))])  # of the pairs (a, a + 1), (a, a + 2), .. of each a
    chosen = rng.choice(first[-1], min(most, first[-1]), replace=False)
    a = np.searchsorted(first, chosen, "right") - 1
    return list(zip(a.tolist(), (chosen - first[a] + a + 1).tolist()))
