"""How far a training has come, in the figures that will judge its result."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ignite.engine import Engine, Events

from bundle.metrics import mean_relative_error

if TYPE_CHECKING:
    from bundle.trainer import SuperResolutionTrainer

logger = logging.getLogger(__name__)


class FeedbackLog:
    """Every epoch: volume fractions and interfacial areas of the finest slices that the feedback counts, beside those of the HR images.

    They are of small random places of the training volume and of the generator as it was over the last steps, so they tell the course of a
    training; `run evaluating` tells the result. The mean relative error goes to `state.metrics` as `statistics_error_<group>`.
    """

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._compare)

    def _compare(self, engine: SuperResolutionTrainer) -> None:
        if engine.feedback is None:
            return
        for group in engine.feedback.rings:
            made, wanted = engine.feedback.made(group).numpy(), engine.feedback.wanted[group].numpy()
            error = float(mean_relative_error(made, wanted))
            engine.state.metrics[f"statistics_error_{group}"] = error
            pairs = ", ".join(f"{a:.4f} ({b:.4f})" for a, b in zip(made, wanted))
            logger.info(f"slices of {group}, {100 * error:.1f} % off the images: {pairs}")
