"""How far a training has come, in the figures that will judge its result, and what goes wrong in it: said once, with what mends it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from bundle.metrics import mean_relative_error
from bundle.probe import Probe, agreement, noise_diversity, own_random_numbers, slice_diversity
from bundle.trainer import level_scales
from bundle.transforms.slices import RandSliceCropsd

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


class ConfusionLog:
    """Every epoch: how the scan labels each phase, as far as a consistency has learned it; without such a one it says nothing.

    Args:
        phases, labels: names of the phases of the result and of the scan's labels.
    """

    def __init__(self, phases: Sequence[str], labels: Sequence[str]):
        self.phases, self.labels = list(phases), list(labels)

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._tell)

    def _tell(self, engine: SuperResolutionTrainer) -> None:
        if not engine.learns_confusion:
            return
        for phase, row in zip(self.phases, engine.consistency.confusion().tolist()):
            logger.info(f"the scan labels {phase} " + ", ".join(f"{label} {share:.0%}" for label, share in zip(self.labels, row)))


class Alarm:
    """Warns once when something is seen at some looks in a row, and says once when it is no longer seen at as many.

    Args:
        patience: looks in a row.
    """

    def __init__(self, patience: int = 2):
        self.patience, self.on, self.against = patience, False, 0

    def look(self, seen: bool, warning: str, over: str) -> None:
        """One look: what to say if it starts or ends with it."""
        self.against = self.against + 1 if seen != self.on else 0
        if self.against == self.patience:
            self.on, self.against = seen, 0
            logger.warning(warning if seen else f"over: {over}")

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"on": self.on, "against": self.against}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.on, self.against = bool(state["on"]), int(state["against"])


class GeneratorMonitor:
    """Watches the averaged generator every few epochs: mode collapse, and pores (or another trusted label) that leave their place.

    Three numbers go to `state.metrics`, and each raises an `Alarm`:

    - `noise_diversity`: share of the detail that differs between two noises; not where there is no noise (`noise_std` 0).
    - `slice_diversity_<group>`: how various the finest slices of the last steps are, against the HR images; not without a buffer.
    - `agreement_<name>`: share of the LR voxels of the watched label that keep it; low, or far below the best so far.

    Its state belongs into the checkpoint.

    Args:
        probe: what is looked at.
        images: plane group -> its HR images, (y, x) label arrays.
        phases: names of the HR labels; of the watched one `phases[probe.label]`.
        least_noise_diversity, least_slice_diversity, least_agreement: limits below which something is wrong.
        margin: by which the agreement may fall from its best.
        interval: epochs between looks; 0 = none.
    """

    def __init__(
        self,
        probe: Probe,
        images: Mapping[str, Sequence[np.ndarray]],
        phases: Sequence[str],
        least_noise_diversity: float = 0.1,
        least_slice_diversity: float = 0.4,
        least_agreement: float = 0.8,
        margin: float = 0.1,
        interval: int = 1,
    ):
        self.probe, self.images, self.phases, self.name = probe, images, list(phases), phases[probe.label]
        self.least_noise_diversity, self.least_slice_diversity = least_noise_diversity, least_slice_diversity
        self.least_agreement, self.margin, self.interval = least_agreement, margin, interval
        self.best = 0.0
        self.alarms: dict[str, Alarm] = {}

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer."""
        if self.interval:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self._look)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"best": self.best, "alarms": {name: alarm.state_dict() for name, alarm in self.alarms.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.best = float(state["best"])
        for name, values in state["alarms"].items():
            self._alarm(name).load_state_dict(values)

    def _alarm(self, name: str) -> Alarm:
        return self.alarms.setdefault(name, Alarm())

    def _look(self, engine: SuperResolutionTrainer) -> None:
        for name in ["noise_diversity", f"agreement_{self.name}", *(f"slice_diversity_{group}" for group in engine.planes)]:
            engine.state.metrics.pop(name, None)  # what is not told now does not hold any more
        made = self.probe(engine)
        if self.probe.noisy:
            self._noise(engine, noise_diversity(made))
        if engine.buffer is not None:
            for group in engine.planes:
                value = slice_diversity(engine.buffer, f"{group}_{engine.network.scale_factor}x", self.images[group], len(self.phases))
                self._slices(engine, group, value)
        self._agreement(engine, agreement(made, self.probe.label, len(self.phases)))

    def _noise(self, engine: SuperResolutionTrainer, value: float | None) -> None:
        if value is None:
            return
        engine.state.metrics["noise_diversity"] = value
        self._alarm("noise").look(
            value < self.least_noise_diversity,
            f"mode collapse: of the detail beyond the LR only {100 * value:.2g} % differs between two noises "
            f"(limit {100 * self.least_noise_diversity:g} %), so every seed gives nearly the same rock; raise network_def#perturbation, or "
            f"lower consistency_weight (now {engine.consistency_weight:g}); with noise_std 0 it would be meant",
            f"{100 * value:.2g} % of the detail differs between two noises again",
        )

    def _slices(self, engine: SuperResolutionTrainer, group: str, value: float | None) -> None:
        if value is None:
            return
        engine.state.metrics[f"slice_diversity_{group}"] = value
        self._alarm(f"slices of {group}").look(
            value < self.least_slice_diversity,
            f"mode collapse: slices of different places differ {value:.2g} times as much as crops of the HR images of {group} "
            f"(limit {self.least_slice_diversity:g}); raise consistency_weight (now {engine.consistency_weight:g}), lower g_learning_rate, "
            "or go back to an earlier checkpoint or model (start_from, snapshots)",
            f"slices differ {value:.2g} times as much as crops of the HR images of {group} again",
        )

    def _agreement(self, engine: SuperResolutionTrainer, value: float | None) -> None:
        if value is None:
            return
        engine.state.metrics[f"agreement_{self.name}"] = value
        self.best = max(self.best, value)
        limit = max(self.least_agreement, self.best - self.margin)
        self._alarm("agreement").look(
            value < limit,
            f"geometry drifts: {100 * value:.1f} % of the LR voxels of {self.name} keep it (limit {100 * limit:.1f} %, best "
            f"{100 * self.best:.1f} %); raise consistency_weight (now {engine.consistency_weight:g}) or the costs of {self.name}, or lower tolerance",
            f"{100 * value:.1f} % of the LR voxels of {self.name} keep it again",
        )


class CriticMonitor:
    """Watches every few epochs whether the critics learn their HR crops by heart; does nothing where there are no critics.

    r_v = (E[D(train)] - E[D(held out)]) / (E[D(train)] - E[D(fake)]) (Karras et al. 2020, eq. 1): 0 where held-out crops are scored as those
    that were trained on, 1 where they are scored as fakes. It is a ratio of differences of scores, so it does not depend on their scale or
    offset, which mean nothing in Wasserstein and relativistic critics. It is told where a critic tells crops from fakes by more than
    twice the standard error; each is `critic_overfitting_<critic>` in `state.metrics`. A held-out part of another texture than the rest
    counts as overfitting from the start.

    Args:
        probe: what makes the fakes.
        images: plane group -> the HR images that are trained on, (y, x) label arrays.
        held_out: the parts that are not; empty where nothing is held out, which is said once.
        sizes: edges of the crops, pixels, a scale.
        n_phases: of the images.
        symmetries: that may turn a crop.
        number: crops of each kind.
        limit: of r_v.
        interval: epochs between looks; 0 = none.
        seed: of the crops, which are the same at every look.
    """

    def __init__(
        self,
        probe: Probe,
        images: Mapping[str, Sequence[np.ndarray]],
        held_out: Mapping[str, Sequence[np.ndarray]],
        sizes: Sequence[int],
        n_phases: int,
        symmetries: int = 8,
        number: int = 48,
        limit: float = 0.5,
        interval: int = 1,
        seed: int = 0,
    ):
        self.probe, self.images, self.held_out, self.sizes, self.n_phases = probe, images, held_out, list(sizes), n_phases
        self.symmetries, self.number, self.limit, self.interval, self.seed = symmetries, number, limit, interval, seed
        self.alarms: dict[str, Alarm] = {}

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer."""
        if not self.interval:
            return
        if not engine.critics:
            if self.held_out:
                logger.warning("held_out keeps a part of every HR image out of training, but there are no critics to be watched with it; set it to 0")
            return
        if self.held_out:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self._look)
        else:
            engine.add_event_handler(Events.STARTED, self._cannot)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"alarms": {name: alarm.state_dict() for name, alarm in self.alarms.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        for name, values in state["alarms"].items():
            self.alarms.setdefault(name, Alarm()).load_state_dict(values)

    def _cannot(self) -> None:
        logger.warning(
            "held_out is 0: overfitting of the critics cannot be watched; set it to a share of the HR images, such as 0.3, "
            "that is then kept out of training"
        )

    def _look(self, engine: SuperResolutionTrainer) -> None:
        found = self._overfitting(engine)
        for name in engine.critics:
            engine.state.metrics.pop(f"critic_overfitting_{name}", None)  # what was told before does not hold any more
            alarm = self.alarms.setdefault(name, Alarm())
            if name not in found:
                alarm.look(False, "", f"critic {name} tells no HR crop from a fake")
                continue
            ratio, certain = found[name]
            engine.state.metrics[f"critic_overfitting_{name}"] = ratio
            value = f"critic {name} scores held-out HR crops {100 * ratio:.0f} % of the way from those it learns from to the fakes"
            alarm.look(
                certain and ratio > self.limit,
                f"overfitting: {value} (limit {100 * self.limit:g} %): it knows its images by heart; add HR images, lower d_learning_rate, "
                "raise the penalty of adversarial, or stop and take an earlier model (snapshots)",
                f"{value} (limit {100 * self.limit:g} %)",
            )

    def _overfitting(self, engine: SuperResolutionTrainer) -> dict[str, tuple[float, bool]]:
        """By critic r_v, where there is one, and whether held-out crops score lower than those trained on by more than twice the standard error."""
        fakes: dict[str, list[torch.Tensor]] = {}
        with own_random_numbers(torch.device(engine.state.device), self.seed), torch.no_grad():
            for one in self.probe(engine):
                for name, parts in engine.fakes(one.volumes, one.labels).items():
                    fakes.setdefault(name, []).extend(slices for slices, _ in parts)
            crops = [self._crops(images, engine) for images in (self.images, self.held_out)]
            found = {}
            for name, critic in engine.critics.items():
                fake = torch.cat(fakes[name])
                train, held_out = (critic(engine.at_scale(kind[name], fake.shape[-1])) for kind in crops)
                made = critic(fake)
                gap, loss = train.mean() - made.mean(), train.mean() - held_out.mean()
                if gap > 2 * _standard_error(train, made):
                    found[name] = float(loss / gap), bool(loss > 2 * _standard_error(train, held_out))
        return found

    def _crops(self, images: Mapping[str, Sequence[np.ndarray]], engine: SuperResolutionTrainer) -> dict[str, torch.Tensor]:
        """HR crops by critic, the same at every look."""
        draw = RandSliceCropsd(list(engine.planes), self.sizes, self.number, self.n_phases, self.symmetries)
        draw.set_random_state(self.seed)
        groups = draw({group: images[group] for group in engine.planes})
        scales = level_scales(engine.network, self.sizes)
        return {f"{group}_{scale}x": crops.to(engine.state.device) for group in groups for scale, crops in zip(scales, groups[group])}


def _standard_error(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of the difference of two means."""
    return (a.var() / len(a) + b.var() / len(b)).sqrt()
