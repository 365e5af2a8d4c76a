"""The training engine where the generator is spread over processes: the steps of `SuperResolutionTrainer`, its losses on the last process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.utils import convert_to_tensor
from torch import Tensor

from bundle.engine import straight_through
from bundle.errors import InputError
from bundle.trainer import SuperResolutionTrainer, level_scales

_LOST = ("Connection", "connection", "closed by peer", "timed out", "Timed out", "NCCL")


class PipelineTrainer(SuperResolutionTrainer):
    """As `SuperResolutionTrainer`, `parallel` being a `Pipeline`. The losses are means over microbatches, so they equal those of one process
    where they are means over patches (consistency, critics); a patch distance is one of the slices of each microbatch.

    The volumes that the critics see are made first without gradients, then again with them: the schedules know one loss for the whole way back.
    """

    def __init__(self, **options: Any):
        super().__init__(**options)
        if self.learns_confusion:
            raise InputError("consistency: in a pipeline the last process alone would know what it learned of the scan; leave confusion.yaml out")
        for memory in (self.feedback, getattr(self.consistency, "absent", None)):
            if memory is not None:
                memory.steps *= self.parallel.microbatches  # of a step each leaves something

    pushed = False  # whether the last process has put something into its buffer since the start

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        try:
            return super()._iteration(engine, batchdata)
        except RuntimeError as error:
            if any(words in str(error) for words in _LOST):
                lost = f"process {self.parallel.rank} lost another at iteration {engine.state.iteration}"
                raise InputError(f"pipeline: {lost}; start again, with resume true it goes on") from error
            raise

    def _steps(self, iteration: int, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        image = convert_to_tensor(batch["image"], track_meta=False).to(self.state.device)
        last = self.parallel.rank == self.parallel.size - 1
        self.adversarial_turn = bool(self.critics) and iteration > self.warmup_iterations
        generator_turn = iteration % self.n_critic == 0 or not self.critics
        generates = generator_turn or self.buffer is None or not (self.pushed or self.buffer.rings)
        if generates:  # else nothing is drawn either, as in one process
            self.labels = self.network.corrected(image).contiguous()
            noises = self._draw(image)
        self.random, self.reals, self.micro = torch.get_rng_state(), {}, []
        losses: dict[str, Tensor] = {}

        if generates and (self.critics or self.patches is not None or self.feedback is not None):
            made = self.parallel.run(image, self.places, noises)
            self.pushed = True
            if last:
                fakes = self.fakes(self._volumes(made), self.labels)
                if self.buffer is not None:
                    for name, per_plane in fakes.items():
                        self.buffer.push(name, *(torch.cat(parts) for parts in zip(*per_plane)))
        if self.critics and last:
            self.reals = self._reals(batch, image.shape[1] - 1)
            self._critic_step(self.reals, fakes if self.buffer is None or generator_turn else {}, losses)
        elif self.critics:
            for _ in range(max(len(planes) for planes in self.planes.values()) if self.separate_planes else 1):
                self.d_optimizer.zero_grad(set_to_none=True)
                self._apply(self.d_optimizer, self.critics)
        if generator_turn:
            self.g_optimizer.zero_grad(set_to_none=True)
            self.parallel.run(image, self.places, noises, self.labels)
            self._apply(self.g_optimizer, self.network)
            self.parallel.share_statistics(self.network)
            self.ema.update_parameters(self.network)
            for part in self.micro[-self.parallel.microbatches :]:
                for name, value in part.items():
                    losses[name] = losses.get(name, 0.0) + value / self.parallel.microbatches
        known = self.parallel.from_last({name: float(value.detach()) for name, value in losses.items()} if last else None)
        return {name: torch.tensor(value) for name, value in known.items()}

    def _draw(self, image: Tensor) -> list[Tensor]:
        """Where the levels decode, and the noise of each; the stages are built at the first time."""
        self.places = self.network.nested_boxes(image.shape[-1], self.boxes)
        noises = self.network.box_noise(len(image), self.places, image.device)
        if not hasattr(self.parallel, "both"):
            self.parallel.build(self.network, image, self.places, self.bfloat16, self._microbatch_loss)
        return noises

    def _volumes(self, made: Tensor | tuple[Tensor, ...]) -> list[tuple[int, Tensor, Any]]:
        """What the last stage made, as `forward_training` gives it; labels where the losses see labels."""
        made = made if isinstance(made, tuple) else (made,)
        scales = level_scales(self.network, made)
        return [(scale, straight_through(p) if self.hard_labels else p, box) for scale, p, box in zip(scales, made, self.places)]

    def _microbatch_loss(self, made: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """The generator's loss of a microbatch, on the slices that the critics have seen of it."""
        torch.set_rng_state(self.random)
        volumes, parts = self._volumes(made), {}
        fakes = self.fakes(volumes, labels)
        parts["generator"] = self._generator_loss(labels, volumes, self.reals, fakes, self.adversarial_turn, parts)
        self.micro.append({name: value.detach() for name, value in parts.items()})
        return parts["generator"]
