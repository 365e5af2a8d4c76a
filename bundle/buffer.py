"""A memory of earlier fake slices, so that a critic step does not see one place of the rock only."""

from __future__ import annotations

import torch
from torch import Tensor


class SliceBuffer:
    """Ring of the slices of the last volumes, one ring a critic.

    Args:
        volumes: generator steps remembered.
    """

    def __init__(self, volumes: int = 12):
        self.volumes = volumes
        self.rings: dict[str, list[Tensor]] = {}

    def push(self, name: str, slices: Tensor) -> None:
        """Remembers the slices (N, phases, h, w) of one generator step for the critic `name`; the oldest step is forgotten."""
        ring = self.rings.setdefault(name, [])
        ring.append(slices.detach().half())  # probabilities need no more than half precision
        del ring[: -self.volumes]

    def sample(self, name: str, number: int) -> Tensor:
        """`number` slices, half of the newest step and half of the earlier ones, drawn at random: (number, phases, h, w) float32.

        The newest must weigh as much as all others together: a generator that has found a way past the critic would otherwise be
        many steps ahead before the critic sees it.
        """
        ring = self.rings[name]
        newest = _draw(ring[-1], number - number // 2 if len(ring) > 1 else number)
        if len(ring) == 1:
            return newest.float()
        return torch.cat([newest, _draw(torch.cat(ring[:-1]), number - len(newest))]).float()

    def state_dict(self) -> dict[str, list[Tensor]]:
        """For the checkpoint."""
        return {name: list(ring) for name, ring in self.rings.items()}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """From a checkpoint."""
        self.rings = {name: list(ring) for name, ring in state.items()}


def _draw(pool: Tensor, number: int) -> Tensor:
    return pool[torch.randperm(len(pool), device="cpu")[:number].to(pool.device)]
