"""A memory of earlier fake slices, so that a critic step does not see one place of the rock only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class SliceBuffer:
    """Ring of the slices of the last volumes, one ring a critic.

    Args:
        volumes: generator steps remembered.
    """

    def __init__(self, volumes: int = 12):
        self.volumes = volumes
        self.rings: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def push(self, name: str, slices: Tensor, shares: Tensor) -> None:
        """Remembers the slices (N, phases, h, w) of one generator step for the critic `name`, and a number (N,) that belongs to each."""
        ring = self.rings.setdefault(name, [])
        ring.append((slices.detach().half(), shares))  # probabilities need no more than half precision
        del ring[: -self.volumes]

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
            drawn = [_draw(newest, number - number // 2), _draw([torch.cat(parts) for parts in zip(*ring[:-1])], number // 2)]
        slices, shares = (torch.cat(parts) for parts in zip(*drawn))
        return slices.float(), shares

    def earlier(self, name: str, number: int) -> Tensor:
        """At most `number` slices of the steps before the newest, at random; none at the first step."""
        ring = self.rings[name]
        if len(ring) == 1:
            return ring[0][0][:0].float()
        return _draw([torch.cat([slices for slices, _ in ring[:-1]])], number)[0].float()

    def state_dict(self) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """For the checkpoint."""
        return {name: list(ring) for name, ring in self.rings.items()}

    def load_state_dict(self, state: dict[str, list[tuple[Tensor, Tensor]]]) -> None:
        """From a checkpoint."""
        self.rings = {name: list(ring) for name, ring in state.items()}


def _draw(pool: Sequence[Tensor], number: int) -> tuple[Tensor, ...]:
    index = torch.randperm(len(pool[0]), device="cpu")[:number].to(pool[0].device)
    return tuple(part[index] for part in pool)
