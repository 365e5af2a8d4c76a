"""LR labels that are another phase: hidden minerals return grain by grain and where the LR saw some, rims of mixed voxels become what they hide."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from statistics import NormalDist

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import ndtr
from torch import Tensor, nn
from torch.nn import functional as F

from bundle.networks.hills import box_sum, uphill, walked
from bundle.networks.older import bring_up
from bundle.networks.windows import trimmed

EVIDENCE = 4.0
"""Standard deviations of the noise that count as much as what the LR saw of the hidden phase in the last places that would turn by that alone."""

LEAST_SEEN = 0.01
"""Share of what is around below which what the LR saw of a phase is no more than an error of its segmentation."""

SHARES = 3
"""Of what the LR saw: at the end of the walk, then around the voxel itself, nearer and farther. Still nearer, lone specks would speak for themselves."""

RIM = 2
"""LR voxels that each of two boxes reaches in which rims are looked for: mixed voxels have a solid beside them."""

FINENESS = 64.0
"""Steps of the noise in its standard deviation: it is rounded, so that its sums are exact."""

QUANTILES = 10_000
"""Of what the LR saw: they stand for all voxels."""

LARGEST = 96
"""LR voxels along the edge of a block by which thresholds are set."""


def _find_hosts(module: nn.Module, _: object = None) -> None:
    module.hosts = [label for label, row in enumerate(module.target.tolist()) if any(row)]
    module.rims = [label for label in module.hosts if float(module.rim[label]) > 0]
    module.becomes = module.target.argmax(1).tolist()


class HiddenPhases(nn.Module):
    """Turns the share of an LR label that is another phase: grain by grain, first where the LR saw some of it, elsewhere by chance; or where it is a rim.

    A grain is what lies on one hill of the solid: the label and the phase that it hides, smoothed. From every voxel a walk leads uphill, and what is
    found at its end decides for the voxel: smooth noise, and the share of the hidden phase that the LR saw around it. So grains end at pores and
    throats, as those of the HR images do. Where the solid goes on without a throat hills tell little of grains, so what the LR saw around the voxel
    itself decides as well. The same decides for voxels that the LR labels as the phase: a speck of it that stands alone is a fault of
    its segmentation, and becomes the label. Nothing depends on voxels farther than `reach`, and all that is compared is made of sums of integers:
    windows cut anywhere agree to the last bit. The amount is set by a threshold alone, so no loss has to find it: a distance between textures does
    not feel it, and a training that may turn a phase at no cost turns all of it.

    A rim is a label whose grey value lies between those of two others, so that voxels mixed of both pass for it. Of such a label those voxels turn around
    which there is most of all other labels, chance or not: clay beside quartz is a closed throat or the edge of a pore, clay among clay and pore is clay.

    It starts with nothing hidden; what `hide` and `calibrate` set is saved with the weights.

    Args:
        n_labels, n_phases: of LR and of the result.
        radius: LR voxels that smoothing reaches, somewhat less than a grain does. A walk is half as long again.
        noise_std: standard deviation of the white noise that `forward` will be given; thresholds and weights are told in its smooth noise. 0, which
            turns nothing by itself: as 1.
    """

    hosts: list[int]  # labels that are another phase in part
    rims: list[int]  # those of them that are rims
    becomes: list[int]  # the phase that each label hides, where it is a host

    def __init__(self, n_labels: int, n_phases: int, radius: int, noise_std: float = 1.0):
        super().__init__()
        self.unknown: int = n_phases - n_labels
        self.noise_std: float = noise_std or 1.0
        self.radius: int = radius
        self.walk: int = radius + radius // 2
        self.reach: int = radius + self.walk
        # of boxes that smooth one after the other, from fine to coarse: together they reach no farther than the radius
        self.widths: list[int] = [2 * (radius // part) + 1 for part in (8, 4, 2)]
        self.weights: list[int] = [math.prod(self.widths[i + 1 :]) ** 3 for i in range(3)]  # with which all three count alike
        widest = self.widths[-1]
        self.fineness: float = FINENESS
        self.deviation: float = FINENESS * ((2 * widest**3 + widest) / 3) ** 1.5  # of white noise, in steps, that the widest box smoothed twice
        self.register_buffer("threshold", torch.full((n_labels,), 1e4))
        self.register_buffer("evidence", torch.zeros(n_labels, SHARES))  # weights of the shares
        self.register_buffer("doubt", torch.full((n_labels,), -1e4))  # what does not exceed it and has the label of the phase is given back
        self.register_buffer("rim", torch.zeros(n_labels))  # 1: it is one
        self.register_buffer("target", torch.zeros(n_labels, n_phases))
        self.rim_reach: int = min(RIM, self.reach // 2)
        self.hosts, self.rims, self.becomes = [], [], [0] * n_labels
        self.register_load_state_dict_pre_hook(bring_up)
        self.register_load_state_dict_post_hook(_find_hosts)

    @torch.jit.unused
    def bring_up(self, state: dict[str, Tensor], prefix: str) -> None:
        """Completes weights saved until version 0.9.2: they knew what was seen at the end of the walk alone, gave nothing back, and knew no rims."""
        weights = state.get(prefix + "evidence")
        if weights is not None and weights.ndim == 1:
            state[prefix + "evidence"] = F.pad(weights[:, None], [0, SHARES - 1])
            state[prefix + "doubt"] = torch.full_like(weights, -1e4)
            state[prefix + "rim"] = torch.zeros_like(weights)

    @torch.jit.unused
    def hide(self, shares: Sequence[Sequence[float]], rims: Sequence[int] = ()) -> None:
        """Sets the share of each label (rows) that is another phase (columns), as `hidden_shares` gives it. Noise alone says which grains turn; of the
        labels that are rims nothing does before `calibrate`.

        Raises:
            ValueError: a label hides more than one phase.
        """
        self.threshold.fill_(1e4)
        self.evidence.zero_()
        self.doubt.fill_(-1e4)
        self.rim.zero_()
        self.target.zero_()
        for label, row in enumerate(shares):
            turning = [(phase, share) for phase, share in enumerate(row) if share > 0]
            if len(turning) > 1:
                raise ValueError(f"LR label {label} hides more than one phase: shares {list(row)}")
            for phase, share in turning:
                self.target[label, phase], self.rim[label] = 1.0, float(label in rims)
                # of the noise; of a rim it is compared with a share, which is never more than 1
                self.threshold[label] = 2 - share if label in rims else self.noise_std * NormalDist().inv_cdf(1 - share)
        _find_hosts(self)

    @torch.jit.unused
    @torch.no_grad()
    def calibrate(self, labels: np.ndarray) -> None:
        """Lets what an LR volume shows of the hidden phases decide, too, and sets the thresholds anew: with what is given back it holds as much of them
        as before, on average over the noise. A phase that several labels hide is given back to none.

        Args:
            labels: (z, y, x). Of a volume of more than three times 96 voxels along an axis blocks from each third of it stand for the whole.
        """
        found: dict[int, list[Tensor]] = {label: [] for label in self.hosts}
        hiding = [self.becomes[label] for label in self.hosts if label not in self.rims]
        given: dict[int, list[Tensor]] = {label: [] for label in self.hosts if hiding.count(self.becomes[label]) == 1}
        for onehot in self._blocks(labels):
            inner = trimmed(onehot, self.reach)
            for label in self.hosts:
                if label in self.rims:
                    found[label].append(self.others(onehot, label)[0, 0][inner[0, label] > 0.5])
                    continue
                seen = self.at_the_top(onehot, torch.zeros_like(trimmed(onehot[:, :1], self.radius)), label)[1].mean(1)[0]
                found[label].append(seen[inner[0, label] > 0.5])
                if label in given and self.becomes[label] < inner.shape[1]:
                    given[label].append(seen[inner[0, self.becomes[label]] > 0.5])
        for label, parts in found.items():
            before, seen = float(self.threshold[label]), torch.cat(parts)
            if len(seen) and label in self.rims:
                self.threshold[label] = float(np.quantile(_quantiles(seen), before - 1))
            elif len(seen):
                share = 1 - NormalDist().cdf(before / self.noise_std)
                specks = torch.cat(given[label]) if given.get(label) else seen[:0]
                ratio = len(specks) / len(seen)
                seen, specks = (_quantiles(values) for values in (seen, specks))
                weight = EVIDENCE / max(float(np.quantile(seen, 1 - share)), LEAST_SEEN)

                def excess(threshold: float) -> float:  # in its deviation the noise on top of a hill is standard normal, wherever the hill is
                    lost = ratio * ndtr(threshold - weight * specks).mean() if ratio else 0.0
                    return ndtr(weight * seen - threshold).mean() - share - lost

                self.threshold[label] = self.noise_std * brentq(excess, -10, 10 + weight)
                self.evidence[label] = self.noise_std * weight / SHARES
                if ratio:
                    self.doubt[label] = self.threshold[label]

    def _blocks(self, labels: np.ndarray) -> Iterator[Tensor]:
        """One-hot blocks of a volume, as `forward` takes them, that share no voxel; beyond the border its outermost voxels go on."""
        for place in product(*(_parts(n) for n in labels.shape)):
            around = [np.arange(low - self.reach, high + self.reach).clip(0, n - 1) for (low, high), n in zip(place, labels.shape)]
            block = torch.from_numpy(labels[np.ix_(*around)]).long()
            yield F.one_hot(block, len(self.target)).movedim(-1, 0)[None].to(self.target)

    def forward(self, onehot: Tensor, noise: Tensor) -> Tensor:
        """One-hot labels (B, labels, D + 2 reach, …) and white noise (B, 1, D + 2 reach, …) -> one-hot phases (B, phases, D, H, W)."""
        labels = trimmed(onehot, self.reach)
        phases = F.pad(labels, [0, 0, 0, 0, 0, 0, 0, self.unknown])  # phases that the LR does not know stay zero
        if len(self.hosts) == 0:
            return phases
        smooth = self.smooth(noise) if len(self.hosts) > len(self.rims) else noise  # rims need none
        for label in self.hosts:
            target = self.target[label].to(phases)[None, :, None, None, None]
            if label in self.rims:
                turned = (self.others(onehot, label) > self.threshold[label]) & (labels[:, label : label + 1] > 0.5)
                phases = torch.where(turned, target, phases)
                continue
            field, seen = self.at_the_top(onehot, smooth, label)
            score = field
            for i in range(seen.shape[1]):
                score = score + self.evidence[label, i] * seen[:, i : i + 1]
            turned = (score > self.threshold[label]) & (labels[:, label : label + 1] > 0.5)
            doubted = (score <= self.doubt[label]) & (self.shown(labels, label) > 0.5)
            own = torch.zeros_like(target)
            own[:, label] = 1.0
            phases = torch.where(turned, target, torch.where(doubted, own, phases))
        return phases

    def exact(self, x: Tensor) -> Tensor:
        """Rounded to integers that hold every sum."""
        return x.round().to(torch.int32 if self.radius <= 16 else torch.int64)

    def smooth(self, noise: Tensor) -> Tensor:
        """White noise (B, 1, D + 2 reach, …) -> smooth noise of the same variance, without `radius` voxels on each side."""
        field = box_sum(box_sum(self.exact(noise * self.fineness), self.widths[-1]), self.widths[-1])
        return trimmed(field, self.radius - self.widths[-1] + 1).to(noise) / self.deviation

    def shown(self, onehot: Tensor, label: int) -> Tensor:
        """Where the LR labels voxels as the phase that a label hides: (B, labels, D, H, W) -> (B, 1, D, H, W)."""
        phase = self.becomes[label]
        return onehot[:, phase : phase + 1] if phase < onehot.shape[1] else torch.zeros_like(onehot[:, :1])

    def others(self, onehot: Tensor, label: int) -> Tensor:
        """Share of what is around each voxel that is neither the label nor the phase that it turns to, (B, 1, D, H, W); `onehot` as `forward` takes it."""
        around = trimmed(onehot, self.reach - 2 * self.rim_reach)
        other = torch.zeros_like(around[:, :1])
        for i in range(around.shape[1]):
            if i != label and i != self.becomes[label]:
                other = other + around[:, i : i + 1]
        width = 2 * self.rim_reach + 1
        return box_sum(box_sum(self.exact(other), width), width).to(onehot) / float(width**6)

    def at_the_top(self, onehot: Tensor, field: Tensor, label: int) -> tuple[Tensor, Tensor]:
        """What decides for each voxel: `field` at the end of the walk, (B, 1, D, H, W), and shares of what is around that the LR labels as the phase
        which the label hides, (B, 3, D, H, W): at the end of the walk, then around the voxel itself, smoothed by the first two boxes and by all three.

        Args:
            onehot: as `forward` takes it.
            field: (B, 1, D + 2 walk, …), as `smooth` gives it.
            label: one that hides a phase.
        """
        of_target = self.shown(onehot, label)
        solid = self.exact(torch.cat([onehot[:, label : label + 1] + of_target, of_target], 1))
        height = torch.zeros_like(trimmed(solid, self.radius))
        shares: list[Tensor] = []
        for i, width in enumerate(self.widths):
            solid = box_sum(solid, width)
            around = trimmed(solid, (solid.shape[2] - height.shape[2]) // 2)
            height = height + self.weights[i] * around
            if i > 0:
                shares.append(around[:, 1:].to(field) / around[:, :1].to(field).clamp(min=1))
        top = walked(uphill(height[:, :1]), self.walk)
        found = torch.cat([field, shares[-1]], 1).flatten(2)
        found = trimmed(found.gather(2, top[:, None].expand(-1, 2, -1)).view(height.shape), self.walk)
        return found[:, :1], torch.cat([found[:, 1:], trimmed(torch.cat(shares, 1), self.walk)], 1)


def _parts(n: int) -> list[tuple[int, int]]:
    """Parts of n voxels, LARGEST at most and three at most: all of them, or the middle of each third."""
    number = min(-(-n // LARGEST), 3)
    cuts = [n * i // number for i in range(number + 1)]
    spare = [max(high - low - LARGEST, 0) for low, high in zip(cuts, cuts[1:])]
    return [(low + rest // 2, high - (rest - rest // 2)) for low, high, rest in zip(cuts, cuts[1:], spare)]


def _quantiles(values: Tensor) -> np.ndarray:
    """That stand for all of them, float64; none of none."""
    return np.quantile(values.double().cpu().numpy(), (np.arange(QUANTILES) + 0.5) / QUANTILES) if len(values) else np.zeros(0)
