"""What goes wrong while a generator of HR images learns: said once, with what mends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from bundle.metrics.diversity import image_distance
from bundle.metrics.gates import cut_tiles
from bundle.monitor import Alarm
from bundle.transforms.adaptive import MOST

if TYPE_CHECKING:
    from bundle.synthesis import SynthesisTrainer

SHOWN = 16  # images that a look takes


class SynthesisMonitor:
    """Watches mode collapse of the averaged generator, and a critic that no augmentation keeps from learning its crops by heart.

    `image_diversity` goes to `state.metrics`: how much its images differ from each other, against crops of the HR images side by side. Its
    state belongs into the checkpoint.

    Args:
        images: HR images, (y, x) label arrays.
        least_diversity: limit of `image_diversity`.
        interval: epochs between looks; 0 = none.
    """

    def __init__(self, images: Sequence[np.ndarray], least_diversity: float = 0.5, interval: int = 1):
        self.images, self.least_diversity, self.interval = images, least_diversity, interval
        self.alarms = {"diversity": Alarm(), "augmentation": Alarm()}

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer."""
        if self.interval:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self._look)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {name: alarm.state_dict() for name, alarm in self.alarms.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        for name, values in state.items():
            self.alarms[name].load_state_dict(values)

    def _look(self, engine: SynthesisTrainer) -> None:
        network = engine.ema.module
        z, noises = network.draw(SHOWN, torch.Generator().manual_seed(engine.seed), engine.state.device)
        with torch.no_grad():
            made = network(network.styles(network.map(z)), noises).argmax(1).to(torch.uint8).cpu().numpy()
        tiles = [tile for image in self.images for tile in cut_tiles(image, made.shape[1:])]
        value = _mean_distance(made) / max(_mean_distance(tiles[:: max(1, len(tiles) // SHOWN)]), 1e-9)
        engine.state.metrics["image_diversity"] = value
        self.alarms["diversity"].look(
            value < self.least_diversity,
            f"mode collapse: two images differ {value:.2g} times as much as two crops of the HR images (limit {self.least_diversity:g}); lower "
            "g_learning_rate, raise r1, or go back to an earlier model (start_from, snapshots)",
            f"two images differ {value:.2g} times as much as two crops of the HR images again",
        )
        if engine.augmentation is not None:
            p, r = engine.augmentation.p.get("hr", 0.0), engine.augmentation.r.get("hr", 0.0)
            self.alarms["augmentation"].look(
                p >= MOST and r > engine.augmentation.target,
                f"overfitting: the critic knows its crops by heart (r_t {r:.2f}) though they are augmented with probability {p:g}; add HR images, raise "
                "r1 or cutout, or stop and take an earlier model (snapshots)",
                f"r_t is {r:.2f} again",
            )


def _mean_distance(images: Sequence[np.ndarray]) -> float:
    return float(np.mean([image_distance(a, b) for a, b in combinations(images, 2)]))
