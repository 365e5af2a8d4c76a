"""Memories of earlier generator steps, so that a step does not see one place of the rock only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class StepMemory:
    """What the last generator steps left behind, one ring a name; a part of the checkpoint.

    Args:
        steps: generator steps remembered.
    """

    def __init__(self, steps: int):
        self.steps = steps
        self.rings: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def remember(self, name: str, *parts: Tensor) -> None:
        """Adds what one step left, and forgets the steps before the last."""
        ring = self.rings.setdefault(name, [])
        ring.append(parts)
        del ring[: -self.steps]

    def state_dict(self) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """For the checkpoint."""
        return {name: list(ring) for name, ring in self.rings.items()}

    def load_state_dict(self, state: dict[str, list[tuple[Tensor, Tensor]]]) -> None:
        """From a checkpoint."""
        self.rings = {name: list(ring) for name, ring in state.items()}


class SliceBuffer(StepMemory):
    """Ring of the slices of the last volumes, one ring a critic.

    Args:
        volumes: generator steps remembered.
        slices: kept of each step, at random; None keeps all.
        device: of the slices that are pushed, to which those of a checkpoint go.
    """

    def __init__(self, volumes: int = 12, slices: int | None = None, device: torch.device | str = "cpu"):
        super().__init__(volumes)
        self.slices, self.device = slices, device

    def load_state_dict(self, state: dict[str, list[tuple[Tensor, Tensor]]]) -> None:
        """From a checkpoint, which is read on the CPU."""
        super().load_state_dict({name: [tuple(part.to(self.device) for part in step) for step in ring] for name, ring in state.items()})

    def push(self, name: str, slices: Tensor, shares: Tensor) -> None:
        """Remembers the slices (N, phases, h, w) of one generator step for the critic `name`, and numbers (N, …) that belong to each."""
        if self.slices is not None:
            slices, shares = _draw((slices, shares), self.slices)
        self.remember(name, slices.detach().half(), shares)  # probabilities need no more than half precision

    def sample(self, name: str) -> tuple[Tensor, Tensor]:
        """As many slices as the newest step has, half of them its own and half of the earlier steps, at random; and their numbers.

        The newest must weigh as much as all others together: a generator that has found a way past the critic would otherwise be
        many steps ahead before the critic sees it.
        """
        ring = self.rings[name]
        newest, number = ring[-1], len(ring[-1][0])
        if len(ring) == 1:
            drawn = [newest]
        else:
            own, earlier = _draw(newest, number - number // 2), list(zip(*ring[:-1]))
            index = torch.randperm(sum(map(len, earlier[0])))[: number // 2]
            drawn = [own, tuple(_picked(parts, index) for parts in earlier)]
        slices, shares = (torch.cat(parts) for parts in zip(*drawn))
        return slices.float(), shares

    def pool(self, name: str, number: int) -> Tensor:
        """`number` slices of all steps, the newest included, at random, to stand for all that the generator makes."""
        slices = [step for step, _ in self.rings[name]]
        return _picked(slices, torch.randint(sum(map(len, slices)), (number,))).float()


def _draw(pool: Sequence[Tensor], number: int) -> tuple[Tensor, ...]:
    index = torch.randperm(len(pool[0]), device="cpu")[:number].to(pool[0].device)
    return tuple(part[index] for part in pool)


def _picked(parts: Sequence[Tensor], index: Tensor) -> Tensor:
    """What `torch.cat(parts)[index]` is, without a copy of all the parts: at every step of a critic it would be one of the whole buffer."""
    start = np.cumsum([0, *map(len, parts)])
    steps = np.searchsorted(start, index.numpy(), side="right") - 1
    return torch.stack([parts[step][i - start[step]] for step, i in zip(steps, index.tolist())]) if len(index) else parts[0][:0]
