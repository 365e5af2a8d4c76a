"""Feedback on the statistics that judge a result: prices on volume fractions and contacts, set by the labels of many places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from bundle.buffer import StepMemory
from bundle.losses.tilt import tilted
from bundle.metrics import statistics


class StatisticsFeedback(StepMemory):
    """Charges slices for phases and contacts of which the generator makes too much, and rewards those of which it makes too little.

    The price of a statistic is log2(made / wanted), at most 1 either way and for contacts that are rewarded less, per share wanted. "Made" is counted
    in the labels of the slices of the last steps, as `run evaluating` counts it, weighted so that they hold the LR labels in the proportions of the
    whole volume; "wanted" is the mean over the HR images. A loss on the statistics of the newest slices themselves would ask every place for all that
    the rock holds, and square the error of the rarest contact.

    Args:
        images: plane group -> its HR images, (y, x) label arrays.
        n_phases: of the images.
        lr_fractions: volume fractions of the LR labels in the whole volume.
        steps: generator steps that are counted together.
        reward: largest price paid for contacts that are too rare; charged they are at most 1. A full reward is earned with specks; none at
            all lets the rarest contacts die out, since they are charged whenever chance makes many of them.
        fractions: weight of a fraction's price against a contact's: a voxel counts once for its fraction and up to four times for its contacts.
    """

    def __init__(
        self,
        images: Mapping[str, Sequence[np.ndarray]],
        n_phases: int,
        lr_fractions: Sequence[float],
        steps: int = 8,
        reward: float = 0.2,
        fractions: float = 15.0,
    ):
        super().__init__(steps)  # by group: statistics and LR shares of the slices of each step
        self.images, self.n_phases, self.reward, self.fractions = images, n_phases, reward, fractions
        self.lr_fractions = torch.tensor(lr_fractions, dtype=torch.float64)
        self.wanted: dict[str, Tensor] = {}

    def __call__(self, group: str, fake: Tensor, shares: Tensor) -> Tensor:
        """Sum of price x statistic over the statistics, divided by their number.

        Args:
            group: whose images.
            fake: (N, phases, h, w) probabilities of the newest finest slices; the gradient goes to them.
            shares: (N, LR phases) of each slice that the LR gives its labels.
        """
        labels = fake.detach()
        labels = (labels == labels.amax(1, keepdim=True)).to(fake.dtype)  # ten times as fast as argmax; ties, all but unknown, count twice
        beside = facing(labels)
        self.remember(group, slice_statistics(labels, beside).cpu(), shares.cpu())
        if group not in self.wanted:
            self.wanted[group] = torch.from_numpy(np.mean([statistics(image, self.n_phases) for image in self.images[group]], 0))
        wanted, made = self.wanted[group], self.made(group)
        floor = 0.1 * wanted + 1e-4  # finite prices of what is not made yet, or not wanted at all
        floor[: self.n_phases] += 3e-3
        price = torch.log2((made + floor) / (wanted + floor)).clamp(-1, 1)
        price[self.n_phases :].clamp_(min=-self.reward)
        price[: self.n_phases] *= self.fractions
        price = price / (wanted + floor)
        return (price.to(fake) * slice_statistics(fake, beside).mean(0)).mean()

    def made(self, group: str) -> Tensor:
        """Statistics of the last steps for a group, float64."""
        counts, shares = (torch.cat(parts).double() for parts in zip(*self.rings[group]))
        return tilted(shares, self.lr_fractions) @ counts


def facing(labels: Tensor) -> Tensor:
    """Of each phase, half the faces that a pixel shares with its pixels, counted from both sides: (N, P, h, w) one-hot -> the same shape.

    Of two pixels one at least is no pixel of the border: a face that an inner pixel shares with one of the border counts from the inner side alone.
    """
    inner = torch.zeros_like(labels)
    inner[:, :, 1:-1, 1:-1] = labels[:, :, 1:-1, 1:-1]
    result = _beside(inner)
    result[:, :, 1:-1, 1:-1] += _beside(labels)[:, :, 1:-1, 1:-1]
    return result


def slice_statistics(x: Tensor, beside: Tensor) -> Tensor:
    """Fractions, then areas of all pairs, of each of (N, P, h, w), with what `facing` says of their labels: (N, P (P+1) / 2).

    Their gradient at `x` is that of a voxel turning while its neighbours keep their labels; of the areas half of it, since a face has two sides.
    """
    h, w = x.shape[2:]
    faces = 0.25 * torch.einsum("npyx,nqyx->npq", x, beside) / ((h - 2) * (w - 2))  # two faces a pixel, each from two sides
    first, second = torch.triu_indices(x.shape[1], x.shape[1], offset=1, device=x.device)
    return torch.cat([x.mean((2, 3)), faces[:, first, second] + faces[:, second, first]], 1)


def _beside(x: Tensor) -> Tensor:
    """Half of the sum of the four neighbours of each pixel; beyond the border is nothing."""
    result = torch.zeros_like(x)
    result[:, :, 1:] += x[:, :, :-1]
    result[:, :, :-1] += x[:, :, 1:]
    result[..., 1:] += x[..., :-1]
    result[..., :-1] += x[..., 1:]
    return 0.5 * result
