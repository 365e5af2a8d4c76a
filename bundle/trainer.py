"""The training engine: one critic step an iteration, a generator step every `n_critic` iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from bundle.buffer import SliceBuffer
from bundle.engine import AdversarialTrainer, straight_through
from bundle.errors import switch
from bundle.losses.confusion import ConfusionConsistency
from bundle.networks.generator import Box
from bundle.parallel import Pipeline, place
from bundle.transforms.downsample import block_mean, majority_onehot
from bundle.transforms.slices import random_slices


Slices = tuple[Tensor, Tensor]
"""2D slices (N, phases, h, w) and the shares (N, LR phases) of each that the LR gives its labels."""


def of_box(x: Tensor, box: Box, around: int = 0) -> Tensor:
    """The box of an LR patch (B, C, N, N, N), with so many voxels around it, as far as the patch has them."""
    z, y, x_ = (slice(max(0, start - around), start + box[1] + around) for start in box[0])
    return x[:, :, z, y, x_]


def level_scales(network: nn.Module, levels: Sequence) -> list[int]:
    """Scale of each level, the last being the finest."""
    return [network.scale_factor // 2**k for k in reversed(range(len(levels)))]


class SuperResolutionTrainer(AdversarialTrainer):
    """Trains a 3D generator against 2D critics on slices, tied to the LR labels.

    A batch holds `image` (B, LR phases + 1, N, N, N: one-hot + noise) and, under each key of `planes`, a list with one tensor of
    real crops (B, n, phases, h, w) a level.

    Args:
        adversarial: the adversarial loss.
        consistency: the loss between probabilities and LR one-hot labels: those of the scan where it learns how the scan labels, else with what
            they hide brought back.
        patches: a distance between slices and HR images that teaches in the critics' place or beside them; None leaves it out.
        feedback: prices on the statistics of the finest slices; None leaves it out.
        adversarial_weight, consistency_weight, patch_weight, feedback_weight: of the four in the generator's loss.
        boxes: edge (LR voxels) of the box that each level decodes.
        planes: plane group -> planes that its critics judge, e.g. {"hr": ["xy", "xz", "yz"]}.
        slices_per_plane: slices drawn from each plane of a volume; None takes all.
        match_label: LR label that is trusted: out of the real crops, which may be more than the fake slices, those are set against the
            fakes whose share of it (by majority of LR voxels) is nearest. A batch is a few places of the rock; without the match the
            critic learns how these places differ from the others. None takes the real crops as they come.
        border: finest voxels cut from a volume before slicing.
        separate_planes: one critic update a plane, one after the other, as published; else one for all planes of the group.
        n_critic: iterations (critic steps) per generator step.
        warmup_iterations: first iterations, in which the critics catch up and the generator learns without them.
        buffer: earlier fake slices; None uses the newest volume only, as published.
        hard_labels: every loss sees labels (straight-through), not probabilities, and the reals of coarser scales are majority labels.
            Near-uniform probabilities would satisfy the consistency while the labels, which are what the user gets, are anything.
        devices: over which the generator is spread in this process, the first being `device`; None leaves it whole.
        common: of `AdversarialTrainer`. The critics are one a level and plane group, named `<group>_<scale>x`; without any, consistency and
            patches teach. The network has `corrected`, `forward_training` and `scale_factor`.
    """

    shown = "LR, SR, HR"

    def __init__(
        self,
        *,
        adversarial: Any,
        consistency: nn.Module,
        boxes: Sequence[int],
        planes: Mapping[str, Sequence[str]],
        patches: Any = None,
        feedback: Any = None,
        adversarial_weight: float = 1.0,
        consistency_weight: float = 1.0,
        patch_weight: float = 1.0,
        feedback_weight: float = 1.0,
        slices_per_plane: int | None = None,
        match_label: int | None = None,
        border: int = 0,
        separate_planes: bool = False,
        n_critic: int = 1,
        warmup_iterations: int = 0,
        buffer: SliceBuffer | None = None,
        hard_labels: bool = True,
        devices: Sequence[str] | None = None,
        **common: Any,
    ):
        batch = getattr(common["train_data_loader"], "batch_size", None) or 1
        room = {"batch_size": batch, "boxes": list(boxes), "slices_per_plane": slices_per_plane}
        super().__init__(**common, memory_format=torch.channels_last_3d, room=room)
        device = self.state.device
        self.decoder = None if self.parallel is None else self.parallel.decoder(self.network)
        self.adversarial, self.consistency = adversarial, consistency.to(device)
        self.learns_confusion = isinstance(consistency, ConfusionConsistency)
        self.patches, self.patch_weight = patches, patch_weight
        self.feedback, self.feedback_weight = feedback, feedback_weight
        self.adversarial_weight, self.consistency_weight = adversarial_weight, consistency_weight
        self.boxes, self.planes = list(boxes), {group: list(names) for group, names in planes.items()}
        self.spread = bool(devices) or isinstance(self.parallel, Pipeline)
        if devices:
            self._spread(list(devices))
        self.slices_per_plane, self.border, self.separate_planes = slices_per_plane, border, switch(separate_planes, "separate_planes")
        self.match_label = match_label
        self.n_critic, self.warmup_iterations = n_critic, warmup_iterations
        self.buffer, self.hard_labels = buffer, switch(hard_labels, "hard_labels")
        if buffer is not None:
            self.add_event_handler(Events.STARTED, self._forget_other_boxes)

    def _forget_other_boxes(self) -> None:
        """Empties the buffer of a resumed training whose boxes are others than before: its slices are of another size."""
        sizes = {f"{scale}x": size for scale, size in zip(level_scales(self.network, self.boxes), self.slice_sizes(self.boxes))}
        if any(slices.shape[-1] != sizes.get(name.rpartition("_")[2]) for name, ring in self.buffer.rings.items() for slices, _ in ring):
            self.buffer.rings.clear()

    def slice_sizes(self, boxes: Sequence[int]) -> list[int]:
        """Pixels along the edge of the slices of each level, of boxes of so many LR voxels."""
        factor = self.network.scale_factor
        return [scale * edge - 2 * (self.border * scale // factor) for scale, edge in zip(level_scales(self.network, boxes), boxes)]

    def _spread(self, devices: Sequence[str]) -> None:
        """Puts the parts of the generator, and of its average, on devices."""
        edge = self.network.patch_edge(self.boxes)
        image = torch.zeros(1, self.network.in_channels, edge, edge, edge, device=self.state.device)
        with torch.random.fork_rng([]):
            places = self.network.nested_boxes(edge, self.boxes)
        for network in (self.network, self.ema.module):
            place(network, devices, image, places)

    def _steps(self, iteration: int, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """One critic step and, every `n_critic` iterations, one generator step."""
        image = convert_to_tensor(batch["image"], track_meta=False).to(self.state.device, memory_format=torch.channels_last_3d)
        adversarial = bool(self.critics) and iteration > self.warmup_iterations
        generator_turn = iteration % self.n_critic == 0 or not self.critics
        losses: dict[str, Tensor] = {}

        volumes = []
        if generator_turn or self.buffer is None or not self.buffer.rings:
            labels = self.whole(self.network.corrected(image))
            with torch.set_grad_enabled(generator_turn), torch.autocast(self.state.device.type, torch.bfloat16, enabled=self.bfloat16):
                volumes = (self.decoder or self.network.forward_training)(image, self.boxes)
            volumes = [(scale, self.whole(probabilities.to(image.device)), box) for scale, probabilities, box in volumes]
            if self.hard_labels:
                volumes = [(scale, straight_through(probabilities), box) for scale, probabilities, box in volumes]
        reals, fakes = {}, {}
        if self.critics or self.patches is not None or self.feedback is not None:
            reals = self._reals(batch, image.shape[1] - 1) if self.critics else {}
            fakes = self.fakes(volumes, labels) if volumes else {}  # a critic's turn takes those of the buffer
            if self.buffer is not None:
                for name, per_plane in fakes.items():
                    self.buffer.push(name, *(torch.cat(parts) for parts in zip(*per_plane)))
        if self.critics:
            self._critic_step(reals, fakes, losses)
        if generator_turn:
            tied = self.whole(image[:, :-1]) if self.learns_confusion else labels
            total = self._generator_loss(tied, volumes, reals, fakes, adversarial, losses)
            losses["generator"] = total  # after its parts: the guard names the part that broke
            self._step(self.g_optimizer, total, self.network)
            self.ema.update_parameters(self.network)
        return losses

    def parts(self) -> dict[str, Any]:
        """Everything with a state that a checkpoint must hold, by name."""
        parts = super().parts()
        if self.buffer is not None:
            parts["buffer"] = self.buffer
        if self.feedback is not None:
            parts["feedback"] = self.feedback
        if self.learns_confusion:
            parts["consistency"] = self.consistency
        if getattr(self.consistency, "absent", None) is not None:
            parts["absent"] = self.consistency.absent
        return parts

    def example_slices(self) -> list[np.ndarray]:
        """Label slices (y, x) of the last batch through the middle: LR, SR of the averaged generator, and an HR crop."""
        image = convert_to_tensor(self.state.batch["image"], track_meta=False)[:1].to(self.state.device)
        scale, probabilities, box = self.averaged(image)[-1]
        lr = of_box(image, box)[0, :-1].argmax(0)[box[1] // 2]
        sr = probabilities[0].argmax(0)[scale * box[1] // 2]
        hr = convert_to_tensor(self.state.batch[next(iter(self.planes))][-1], track_meta=False)[0, 0].argmax(0)
        return [labels.cpu().numpy() for labels in (lr, sr, hr)]

    def whole(self, part: Tensor) -> Tensor:
        """(B, …) of this process -> what all processes have."""
        return part if self.parallel is None else self.parallel.whole(part)

    def averaged(self, image: Tensor) -> list[tuple[int, Tensor, Box]]:
        """What the averaged generator makes of LR patches, as `forward_training` of the network gives it; labels where the losses see labels."""
        with torch.no_grad(), torch.autocast(self.state.device.type, torch.bfloat16, enabled=self.bfloat16):
            volumes = self.ema.module.forward_training(image, self.boxes)
        return [(scale, straight_through(p) if self.hard_labels else p, box) for scale, p, box in volumes]

    def at_scale(self, crops: Tensor, edge: int) -> Tensor:
        """HR crops (N, phases, h, h) as the critic of slices of `edge` voxels sees them: block means, or their majority labels."""
        return (majority_onehot if self.hard_labels else block_mean)(crops, crops.shape[-1] // edge)

    def _reals(self, batch: Mapping[str, Any], n_labels: int) -> dict[str, list[Slices]]:
        """HR crops by critic, one pair of crops and shares a critic update; of the shares only that of the matched label is counted."""
        scales = level_scales(self.network, self.boxes)
        reals = {}
        for group, planes in self.planes.items():
            for scale, crops in zip(scales, batch[group]):
                crops = self.whole(convert_to_tensor(crops, track_meta=False).to(self.state.device)).flatten(0, 1)
                shares = torch.zeros(len(crops), n_labels, device=crops.device)
                if self.match_label is not None:
                    shares[:, self.match_label] = majority_onehot(crops, self.network.scale_factor)[:, self.match_label].mean((1, 2))
                n = len(planes) if self.separate_planes else 1
                reals[f"{group}_{scale}x"] = list(zip(crops.chunk(n), shares.chunk(n)))
        return reals

    def fakes(self, volumes: Sequence[tuple[int, Tensor, Box]], lr_onehot: Tensor) -> dict[str, list[Slices]]:
        """Fake slices by critic, one pair of slices and shares a critic update."""
        fakes = {}
        for scale, probabilities, box in volumes:
            border = self.border * scale // self.network.scale_factor
            n, labels = probabilities.shape[1], of_box(lr_onehot, box)  # they ride along, so that every slice brings its own
            volume = torch.cat([probabilities, nn.functional.interpolate(labels, scale_factor=scale)], 1)
            for group, planes in self.planes.items():
                slices = [random_slices(volume, plane, self.slices_per_plane, border) for plane in planes]
                slices = slices if self.separate_planes else [torch.cat(slices)]
                fakes[f"{group}_{scale}x"] = [(both[:, :n], both[:, n:].detach().mean((2, 3))) for both in slices]
        return fakes

    def _match(self, reals: Slices, fake: Tensor, shares: Tensor) -> Tensor:
        """Real slices to set against fake ones: as many, each the nearest in share that is left; block-averaged to their scale (and labelled by majority)."""
        crops, candidates = reals
        if self.match_label is None or len(crops) <= len(shares):
            chosen = torch.arange(min(len(crops), len(shares)), device=crops.device)
        else:
            left, shares = candidates[:, self.match_label].clone(), shares[:, self.match_label]
            chosen = torch.empty(len(shares), dtype=torch.long, device=crops.device)
            for i in torch.randperm(len(shares)).tolist():
                chosen[i] = (left - shares[i]).abs().argmin()
                left[chosen[i]] = torch.inf
        return self.at_scale(crops[chosen], fake.shape[-1])

    def _critic_step(self, reals: Mapping[str, list[Slices]], fakes: Mapping[str, list[Slices]], losses: dict[str, Tensor]) -> None:
        """Updates every critic once, or once a plane."""
        for turn in range(max(len(planes) for planes in self.planes.values()) if self.separate_planes else 1):
            total = torch.zeros((), device=self.state.device)
            for name, critic in self.critics.items():
                if turn >= len(reals[name]):
                    continue
                fake, shares = fakes[name][turn] if self.buffer is None else self.buffer.sample(name)
                real, fake = (self.seen(name, slices) for slices in (self._match(reals[name][turn], fake, shares), fake.detach()))
                loss = self.adversarial.critic_loss(critic, real, fake)
                self._follow(name, critic, real, fake)
                losses[f"critic_{name}"] = losses.get(f"critic_{name}", 0.0) + loss / len(reals[name])
                total = total + loss
            self._step(self.d_optimizer, total, self.critics)
        losses["critic"] = total

    def _generator_loss(
        self,
        lr_onehot: Tensor,
        volumes: Sequence[tuple[int, Tensor, Box]],
        reals: Mapping[str, list[Slices]],
        fakes: Mapping[str, list[Slices]],
        adversarial: bool,
        losses: dict[str, Tensor],
    ) -> Tensor:
        """What the generator has to lower; levels count equally.

        Raises:
            InputError: probabilities that are no numbers, which no loss could count or draw by.
        """
        if not all(probabilities.isfinite().all() for _, probabilities, _ in volumes):
            self._guard({"consistency": float("nan")}, self.state.iteration)
        consistency = torch.zeros((), device=self.state.device)
        for _, probabilities, box in volumes:
            tied = [of_box(lr_onehot, box)]
            if getattr(self.consistency, "absent", None) is not None:  # a box alone does not know what lies around it
                inner = [min(1, start) for start in box[0]], box[1]
                tied.append(of_box(self.consistency.absent.where(of_box(lr_onehot, box, around=1)), inner))
            consistency = consistency + self.consistency(probabilities, *tied) / len(volumes)
        losses["consistency"] = consistency
        total = self.consistency_weight * consistency
        for scale, _, _ in volumes:
            for group in self.planes:
                total = total + self._teach(group, scale, fakes, losses)
        if adversarial:
            self.critics.requires_grad_(False)
            for name, critic in self.critics.items():
                for real, (fake, shares) in zip(reals[name], fakes[name]):
                    real = self.seen(name, self._match(real, fake, shares))
                    score = self.adversarial.generator_loss(critic, real, self.seen(name, fake)) / len(fakes[name])
                    losses[f"adversarial_{name}"] = losses.get(f"adversarial_{name}", 0.0) + score
                total = total + self.adversarial_weight * losses[f"adversarial_{name}"] / len(self.critics)
            self.critics.requires_grad_(True)
        return total

    def _teach(self, group: str, scale: int, fakes: Mapping[str, list[Slices]], losses: dict[str, Tensor]) -> Tensor | float:
        """What the patch distance and, at the finest scale, the feedback on statistics add to the generator's loss."""
        finest = scale == self.network.scale_factor and self.feedback is not None
        if self.patches is None and not finest:
            return 0.0
        name, total = f"{group}_{scale}x", 0.0
        fake, shares = (torch.cat(parts) for parts in zip(*fakes[name]))
        if self.patches is not None:
            pool = fake.detach() if self.buffer is None else self.buffer.pool(name, 4 * len(fake))
            losses[f"patches_{name}"] = self.patches(group, scale, fake, pool)
            total = total + self.patch_weight * losses[f"patches_{name}"] / len(fakes)
        if finest:
            losses[f"feedback_{group}"] = self.feedback(group, fake, shares)
            total = total + self.feedback_weight * losses[f"feedback_{group}"] / len(self.planes)
        return total
