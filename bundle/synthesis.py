"""Training of the generator that grows few HR images into many (bundle/networks/stylegan2.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_tensor
from torch import Tensor

from bundle.engine import AdversarialTrainer, straight_through
from bundle.losses.adversarial import LogisticLoss
from bundle.losses.feedback import StatisticsFeedback
from bundle.losses.path_length import PathLength
from bundle.networks.stylegan2 import beyond_bound, probabilities

SOFT = 4.0  # temperature at which the feedback sees what is made
GROUP = "hr"  # plane group of the images, and name of the critic


class SynthesisTrainer(AdversarialTrainer):
    """Trains a `StyleGenerator` against one critic of whole label maps; a critic step and a generator step an iteration.

    A batch holds under "hr" a list with one tensor of real crops (1, n, phases, h, h). Reals and labels of fakes pass the same augmentation.

    Args:
        adversarial: the logistic loss.
        r1: gamma of the R1 penalty, of crops as they are augmented.
        r1_interval: iterations between penalties, each `r1_interval` times as heavy; 0 = none.
        path_weight: of the path length regularisation.
        path_interval: iterations between them, each as many times as heavy; 0 = none.
        mixing: probability that the finer levels take another image's style.
        feedback: prices on fractions and contacts, set by the images (bundle/losses/feedback.py); None leaves it out.
        feedback_weight: of it.
        common: of `AdversarialTrainer`; the critic is named "hr".
    """

    shown = "generated, generated, HR"

    def __init__(
        self,
        *,
        adversarial: LogisticLoss,
        r1: float = 1.0,
        r1_interval: int = 16,
        path_weight: float = 2.0,
        path_interval: int = 8,
        mixing: float = 0.9,
        feedback: StatisticsFeedback | None = None,
        feedback_weight: float = 1.0,
        **common: Any,
    ):
        super().__init__(**common)
        self.adversarial, self.r1, self.r1_interval = adversarial, r1, r1_interval
        self.path_length, self.path_weight, self.path_interval = PathLength(), path_weight, path_interval
        self.mixing, self.feedback, self.feedback_weight = mixing, feedback, feedback_weight
        self.critic = self.critics[GROUP]

    def parts(self) -> dict[str, Any]:
        """Everything with a state that a checkpoint must hold, by name."""
        parts = super().parts() | {"path_length": self.path_length}
        return parts if self.feedback is None else parts | {"feedback": self.feedback}

    def example_slices(self) -> list[np.ndarray]:
        """Label maps (y, x): two of the averaged generator, always of the same latents, and a crop of the last batch."""
        network = self.ema.module
        z, noises = network.draw(2, torch.Generator().manual_seed(self.seed), self.state.device)
        with torch.no_grad(), self._autocast():
            made = network(network.styles(network.map(z)), noises).argmax(1)
        real = convert_to_tensor(self.state.batch[GROUP][0], track_meta=False)[0, 0].argmax(0)
        return [labels.cpu().numpy().astype(np.uint8) for labels in (*made, real)]

    def _autocast(self, wanted: bool = True) -> torch.autocast:
        return torch.autocast(self.state.device.type, torch.bfloat16, enabled=self.bfloat16 and wanted)

    def _steps(self, iteration: int, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        real = convert_to_tensor(batch[GROUP][0], track_meta=False)[0].to(self.state.device)
        losses: dict[str, Tensor] = {}
        self._critic_step(iteration, real, losses)
        self._generator_step(iteration, len(real), losses)
        self.ema.update_parameters(self.network)
        return losses

    def _make(self, number: int, exact: bool = False) -> tuple[Tensor, Tensor]:
        """Logits (number, phases, h, h) of random images, and their style vectors; in float32 where `exact`."""
        z, noises = self.network.draw(number, device=self.state.device)
        other = torch.randn(number, self.network.latent).to(z)
        levels = len(self.network.edges)
        crossover = torch.where(torch.rand(number) < self.mixing, torch.randint(1, levels, (number,)), levels).to(z.device)
        with self._autocast(not exact):
            w = self.network.map(z)
            ws = self.network.styles(w, self.network.map(other), crossover)
            made = self.network(ws, noises)
        self.network.follow_mean(w)
        return made, ws

    def _critic_step(self, iteration: int, real: Tensor, losses: dict[str, Tensor]) -> None:
        with torch.no_grad():
            fake = straight_through(probabilities(self._make(len(real))[0]))
        real, fake = self.seen(GROUP, real), self.seen(GROUP, fake)
        with self._autocast():
            loss = losses["critic"] = self.adversarial.critic_loss(self.critic, real, fake)
        if self.r1_interval and iteration % self.r1_interval == 0:
            losses["r1"] = self.adversarial.penalty(self.critic, real)
            loss = loss + 0.5 * self.r1 * self.r1_interval * losses["r1"]
        self._step(self.d_optimizer, loss, self.critics)
        self._follow(GROUP, self.critic, real, fake)

    def _generator_step(self, iteration: int, number: int, losses: dict[str, Tensor]) -> None:
        logits, _ = self._make(number)
        fake = self.seen(GROUP, straight_through(probabilities(logits)))
        self.critics.requires_grad_(False)
        with self._autocast():
            losses["adversarial"] = self.adversarial.generator_loss(self.critic, fake, fake)
        self.critics.requires_grad_(True)
        losses["beyond"] = beyond_bound(logits)
        total = losses["adversarial"] + losses["beyond"]
        if self.feedback is not None:
            losses["feedback"] = self.feedback(GROUP, probabilities(logits, SOFT), logits.new_ones(number, 1))
            total = total + self.feedback_weight * losses["feedback"]
        if self.path_weight and self.path_interval and iteration % self.path_interval == 0:
            logits, ws = self._make(max(1, number // 2), exact=True)  # half a batch says enough (section 3.2 there)
            losses["path"] = self.path_length(probabilities(logits), ws)
            total = total + self.path_weight * self.path_interval * losses["path"]
        losses["generator"] = total
        self._step(self.g_optimizer, total, self.network)
