"""Classifier two-sample test: can a small network tell crops of SR from crops of the HR images?

Lopez-Paz & Oquab, Revisiting Classifier Two-Sample Tests, ICLR 2017: if two samples are of one distribution, no classifier beats chance on crops
that it never saw. The figure here is the area under the ROC curve (AUC): the probability that a real crop gets a higher score than a fake
one. 0.5: told apart no better than by chance; 1: always. It judges all that fractions and areas do not: texture, shapes of grains, artefacts.

A test that is too weak flatters. LR upsampled by nearest neighbour must score about 1, but that is soon learnt; images of a good generator
take several times the steps. The default is what a core does in about two minutes: an AUC near 0.5 means something only if it
stays there with `steps` several times as many. And even real images do not score 0.5 against each other where they are few and differ in
their minerals: `real_reference`, with the same steps, says what they reach.
"""

from collections.abc import Sequence
from itertools import combinations
from math import comb

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn
from torch.nn import functional as F

from bundle.errors import InputError
from bundle.metrics.fractions import Labels, as_arrays, count_labels

FOLDS = 4  # parts of the places: one to judge on, the others to train on
TRIES = 10  # draws of a crop until it holds an interface
SYMMETRIES = 8  # of a square: they change places, not labels


def two_sample_auc(
    real: Labels, fake: Labels, n_phases: int, edge: int = 64, folds: int = FOLDS, seed: int = 0, steps: int = 700, batch: int = 32, test: int = 200,
    surest: int = 0,
) -> dict:
    """AUC of a network trained to tell crops of `real` from crops of `fake`, on crops of places that it never saw.

    The places of either are cut into `folds` disjoint parts (see `parts`); the network is trained anew for each on all others, with another
    seed, and judged on it. So the spread between folds holds both the chance of the sample and that of the training.

    Args:
        real: HR images (y, x), or crops of them, as a list.
        fake: SR as a volume (z, y, x), whose planes along all axes are read; or a list of images or crops (see `oblique_slices`). An array is taken
            for a volume: crops that lie one on another in one must be made a list.
        n_phases: labels are 0..n_phases-1.
        edge: of the square crops, pixels.
        folds: number of disjoint parts, 2 or more.
        seed: of the crops and the training; on a CPU the same seed gives the same AUC.
        steps: of the training in each fold; raise until `auc` rises no more.
        batch: crops of either kind in a step.
        test: crops of either kind that each fold is judged on.
        surest: of these, those that the network of a fold is surest of and that are given back; 0 = none.

    Returns:
        JSON-ready but for `crops`: `auc`, the mean of `folds` (a list, one AUC each); `std`, the standard deviation between folds; `error`, the standard error
        of `auc`, with Nadeau & Bengio's correction (Machine Learning 52, 2003) because folds share training crops; `train`, the mean
        AUC on crops of the places trained on: near `auc` unless the network learnt the places by heart; with `surest`, `crops`: `real` and `fake`, the crops
        (surest x folds, edge, edge) that were told most surely, the surest of each fold first.

    Raises:
        InputError: a label outside 0..n_phases-1, fewer than 2 folds, or images too small or too few for the folds.
    """
    if folds < 2:
        raise InputError(f"folds is {folds}: a part to train on and another to judge are at least 2")
    kinds = []
    for labels in (real, fake):
        count_labels(labels, n_phases)
        kinds.append(parts(labels, folds, edge))
    found, trained, told = [], [], {"real": [], "fake": []}
    for fold in range(folds):
        rng = np.random.default_rng((seed, fold))
        train = [[array for i, part in enumerate(kind) if i != fold for array in part] for kind in kinds]
        network = _train(train, n_phases, edge, steps, batch, rng)
        for places, aucs in (([kind[fold] for kind in kinds], found), (train, trained)):
            crops = [draw_crops(arrays, test, edge, rng) for arrays in places]
            scores = [_scores(network, one, n_phases) for one in crops]
            aucs.append(auc(*scores))
            if aucs is found:
                for name, one, sure in zip(told, crops, (-scores[0], scores[1]), strict=True):
                    told[name].append(one[np.argsort(sure, kind="stable")[:surest]])
    std = float(np.std(found, ddof=1))
    summary = {
        "auc": float(np.mean(found)),
        "std": std,
        "error": std * float(np.sqrt(1 / folds + 1 / (folds - 1))),
        "folds": found,
        "train": float(np.mean(trained)),
    }
    return summary | ({"crops": {name: np.stack(one, 1).reshape(-1, edge, edge) for name, one in told.items()}} if surest else {})


def real_reference(real: Sequence[np.ndarray], n_phases: int, max_splits: int = 3, seed: int = 0, **settings) -> dict:
    """What real images score against each other: `two_sample_auc` of one half of them against the other, for every way to halve them.

    An SR that is as good as real scores about this, not 0.5: few images differ in their minerals, and the network learns by how much.

    Args:
        real: HR images (y, x), 2 or more.
        n_phases: labels are 0..n_phases-1.
        max_splits: where there are more ways to halve, so many of them, drawn by `seed`. Four images have 3.
        seed: see `two_sample_auc`.
        settings: further arguments of `two_sample_auc`; take those of the comparison that this is the reference of.

    Returns:
        JSON-ready: `auc`, mean over the splits; `std` between them (None for one); `splits`: [{"auc", "std", .., "real": [indices of images]}].

    Raises:
        InputError: fewer than 2 images, and what `two_sample_auc` raises; before anything is trained.
    """
    room = {name: settings[name] for name in ("edge", "folds") if name in settings}
    found = []
    for half, pair in reference_splits(real, max_splits, seed, **room):
        found.append(two_sample_auc(*pair, n_phases, seed=seed, **settings) | {"real": half})
    values = [result["auc"] for result in found]
    return {"auc": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None, "splits": found}


def reference_splits(
    real: Sequence[np.ndarray], max_splits: int = 3, seed: int = 0, edge: int = 64, folds: int = FOLDS
) -> list[tuple[list[int], tuple[list[np.ndarray], list[np.ndarray]]]]:
    """The ways to halve real images that `real_reference` takes: indices of one half, and both halves.

    Raises:
        InputError: fewer than 2 images, or a half that has no room for crops in its folds: it has fewer images than all, so that they are cut
            smaller.
    """
    images = as_arrays(real)
    if len(images) < 2:
        raise InputError("one real image cannot be compared with another: give 2 or more")
    splits = []
    for half in _halves(len(images), max_splits, np.random.default_rng(seed)):
        pair = [images[i] for i in half], [image for i, image in enumerate(images) if i not in half]
        for side in pair:
            parts(side, folds, edge)
        splits.append((half, pair))
    return splits


def auc(real: np.ndarray, fake: np.ndarray) -> float:
    """Probability that a score of `real` is above one of `fake`, ties count half: the Mann-Whitney statistic / number of pairs."""
    ranks = rankdata(np.concatenate([real, fake]))
    above = ranks[: len(real)].sum() - len(real) * (len(real) + 1) / 2
    return float(above / (len(real) * len(fake)))


def parts(labels: Labels, number: int, edge: int) -> list[list[np.ndarray]]:
    """Cut images or a volume into `number` parts that share no pixel, each a list of arrays (views).

    At least `number` images: runs of the list, so that neighbours in it stay together. Fewer images: each is cut into blocks. A volume is cut
    into blocks. Blocks come from cutting the longest axis first.

    Raises:
        InputError: a part has no room for a crop of `edge`.
    """
    arrays = as_arrays(labels)
    if len(arrays) >= number:
        found = [[arrays[i] for i in run] for run in np.array_split(np.arange(len(arrays)), number)]
    else:
        found = [list(blocks) for blocks in zip(*(_blocks(array, number) for array in arrays), strict=True)]
    for array in (array for part in found for array in part):
        if sorted(array.shape)[-2] < edge or (array.ndim == 2 and min(array.shape) < edge):
            shape = tuple(array.shape)
            raise InputError(f"a part of {number} has shape {shape}, too small for crops of {edge}: larger images, smaller edge or fewer folds")
    return found


def draw_crops(arrays: Sequence[np.ndarray], number: int, edge: int, rng: np.random.Generator) -> np.ndarray:
    """Square crops at random places of images, and of planes along all axes of volumes -> (number, edge, edge) uint8.

    A crop of a single phase says nothing about texture, so it is drawn again, up to `TRIES` times: the same rule for SR and HR.

    Args:
        arrays: images (y, x) and volumes (z, y, x) of at least `edge`; each is drawn from in proportion to its pixels.
        number: of crops.
        edge: pixels.
        rng: random generator; it is drawn from.
    """
    planes = [(array, axis) for array in arrays for axis in _normals(array, edge)]
    pixels = np.cumsum([array.size for array, _ in planes])
    crops = np.empty((number, edge, edge), np.uint8)
    for crop in crops:
        for _ in range(TRIES):
            array, axis = planes[np.searchsorted(pixels, rng.integers(pixels[-1]), side="right")]
            plane = array if axis is None else np.moveaxis(array, axis, 0)[rng.integers(array.shape[axis])]
            y, x = (rng.integers(size - edge + 1) for size in plane.shape)
            crop[:] = plane[y : y + edge, x : x + edge]
            if (crop != crop[0, 0]).any():
                break
    return crops


def _normals(array: np.ndarray, edge: int) -> list[int | None]:
    """Axes normal to which a volume has planes that hold a crop; [None] for an image."""
    if array.ndim == 2:
        return [None]
    return [axis for axis in range(3) if min(np.delete(array.shape, axis)) >= edge]


def _blocks(array: np.ndarray, number: int) -> list[np.ndarray]:
    """Disjoint blocks of about one size."""
    if number == 1:
        return [array]
    factor = next(f for f in range(2, number + 1) if number % f == 0)
    axis = int(np.argmax(array.shape))
    return [block for half in np.array_split(array, factor, axis) for block in _blocks(half, number // factor)]


def _halves(number: int, most: int, rng: np.random.Generator) -> list[list[int]]:
    """Ways to halve 0..number-1, at most `most`; of a half and its complement only one."""
    half = number // 2
    total = comb(number, half) // (1 if number % 2 else 2)
    if total <= most:
        return [list(c) for c in combinations(range(number), half) if number % 2 or 0 in c]
    found: set[tuple[int, ...]] = set()
    while len(found) < most:
        chosen = rng.permutation(number)
        side = chosen[:half] if number % 2 or 0 in chosen[:half] else chosen[half:]
        found.add(tuple(sorted(side.tolist())))
    return [list(c) for c in sorted(found)]


class _Classifier(nn.Sequential):
    """Logit that a crop is real. The mean over places at the end makes it judge texture wherever it lies."""

    def __init__(self, n_phases: int):
        layers, width = [], n_phases
        for out, stride in ((24, 2), (48, 2), (64, 2), (64, 1)):
            layers += [nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            width = out
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1), nn.Flatten(0))


def _train(places: Sequence[list[np.ndarray]], n_phases: int, edge: int, steps: int, batch: int, rng: np.random.Generator) -> nn.Module:
    """A classifier trained on fresh crops of the places (real, fake) in every step, under random symmetries."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        network = _Classifier(n_phases).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    target = torch.cat([torch.ones(batch), torch.zeros(batch)])
    for _ in range(steps):
        crops = np.concatenate([draw_crops(arrays, batch, edge, rng) for arrays in places])
        crops = np.stack([square_symmetry(crop, k) for crop, k in zip(crops, rng.integers(SYMMETRIES, size=len(crops)), strict=True)])
        loss = F.binary_cross_entropy_with_logits(network(_one_hot(crops, n_phases)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def _scores(network: nn.Module, crops: np.ndarray, n_phases: int) -> np.ndarray:
    """Mean logit over the symmetries of every crop -> (n,)."""
    images = (np.ascontiguousarray(np.stack([square_symmetry(crop, k) for crop in crops])) for k in range(SYMMETRIES))
    return np.mean([network(_one_hot(image, n_phases)).double().numpy() for image in images], axis=0)


def square_symmetry(crop: np.ndarray, k: int) -> np.ndarray:
    """Symmetry k = 0..7 of a square image: 4 rotations, of the image and of its transpose."""
    return np.rot90(crop if k < 4 else crop.T, k)


def _one_hot(crops: np.ndarray, n_phases: int) -> torch.Tensor:
    """(n, edge, edge) labels -> (n, n_phases, edge, edge) float32, channels last."""
    return F.one_hot(torch.from_numpy(crops).long(), n_phases).float().permute(0, 3, 1, 2)
