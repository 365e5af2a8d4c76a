"""The generator cut into stages, one a process or a device, as the paper trains it on three GPUs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.utils.flop_counter import FlopCounterMode

from bundle.errors import InputError, whole
from bundle.networks.generator import Box, LevelGenerator
from bundle.networks.paper import PaperGenerator
from bundle.processes import Processes
from bundle.settings import check_device

SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


class LevelStage(nn.Module):
    """Some neighbouring parts of a `LevelGenerator`: part 0 is what it does on the LR grid, part k its k-th level.

    A stage takes LR patches, or features and logits of the stage before and the probabilities of all levels up to it, and gives the same; the
    last gives the probabilities alone.

    Args:
        network: the whole generator.
        parts: of this stage.
        boxes: that the levels decode; their places may change, their edges may not.
        bfloat16: under autocast.
    """

    def __init__(self, network: LevelGenerator, parts: range, boxes: Sequence[Box], bfloat16: bool = False):
        super().__init__()
        self.network, self.parts, self.boxes, self.bfloat16 = network, parts, boxes, bfloat16

    def forward(self, *inputs: Tensor, **noises: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Microbatches; `noise_<k>` of the levels, of which a stage takes its own."""
        with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=self.bfloat16):
            if self.parts[0] == 0:
                (x, logits), made = self.network.start(inputs[0]), []
            else:
                x, logits, *made = inputs
            for level in self.parts:
                if level:
                    x, logits, probabilities = self.network.decode(level - 1, x, logits, noises[f"noise_{level}"], self.boxes)
                    made.append(probabilities)
        last = self.parts[-1] == len(self.network.levels)
        return _sendable(made if last else [x, logits, *made])


class PaperStage(nn.Module):
    """Some neighbouring parts of the paper's generator, of which there are three."""

    def __init__(self, network: PaperGenerator, parts: range, boxes: Sequence[Box], bfloat16: bool = False):
        super().__init__()
        self.network, self.parts, self.boxes, self.bfloat16 = network, parts, boxes, bfloat16

    def forward(self, x: Tensor) -> Tensor:
        """Microbatches of what the part before gives."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
            for number in self.parts:
                x = self.network.part(number, x)
        return x.contiguous()


def _sendable(tensors: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
    tensors = tuple(tensor.contiguous() for tensor in tensors)
    return tensors if len(tensors) > 1 else tensors[0]


def cut(network: nn.Module, stages: int, image: Tensor, boxes: Sequence[Box]) -> list[range]:
    """Parts of each stage: the paper's generator at the paper's cuts, ours such that the largest stage has the fewest operations.

    Args:
        network: the generator.
        stages: number of them.
        image: a batch of LR patches; only its shape counts.
        boxes: of the levels.

    Raises:
        InputError: more stages than parts.
    """
    number = network.part_count()
    if not 1 <= stages <= number:
        name = type(network).__name__
        raise InputError(f"pipeline: {name} has {number} parts and cannot be cut into {stages} stages; take {number} processes or devices at most")
    counts = part_costs(network, image, boxes)
    best: tuple[float, tuple[int, ...]] = (float("inf"), ())
    for cuts in combinations(range(1, number), stages - 1):
        edges = (0, *cuts, number)
        best = min(best, (max(sum(counts[a:b]) for a, b in zip(edges, edges[1:])), edges))
    return [range(a, b) for a, b in zip(best[1], best[1][1:])]


def part_costs(network: nn.Module, image: Tensor, boxes: Sequence[Box]) -> list[int]:
    """Operations of the convolutions of each part, counted without computing."""
    costs = []
    with torch.no_grad(), _Fake(network) as fake:
        tensors = fake.like(image)
        for part in range(network.part_count()):
            with FlopCounterMode(display=False) as counter:
                tensors = fake.through(range(part, part + 1), tensors, boxes, False)
            costs.append(counter.get_total_flops())
    return costs


class _Fake:
    """A copy of a generator that has shapes and no numbers."""

    def __init__(self, network: nn.Module):
        from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode  # takes a moment to import

        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        with FakeCopyMode(self.mode):
            self.network = copy.deepcopy(network)

    def __enter__(self) -> _Fake:
        self.mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.mode.__exit__(*error)

    def like(self, tensor: Tensor) -> tuple[Tensor]:
        return (self.mode.from_tensor(tensor),)

    def through(self, parts: range, tensors: tuple[Tensor, ...], boxes: Sequence[Box], bfloat16: bool) -> tuple[Tensor, ...]:
        """What a stage gives for what the one before gave."""
        noises = self.network.box_noise(len(tensors[0]), boxes, tensors[0].device)
        made = stage_of(self.network, parts, boxes, bfloat16)(*tensors, **_named(noises))
        return made if isinstance(made, tuple) else (made,)


def _named(noises: Sequence[Tensor]) -> dict[str, Tensor]:
    """The noise of each level under the name that the stages know."""
    return {f"noise_{level}": noise for level, noise in enumerate(noises, start=1)}


def stage_of(network: nn.Module, parts: range, boxes: Sequence[Box], bfloat16: bool) -> nn.Module:
    """A stage of either generator."""
    return (PaperStage if isinstance(network, PaperGenerator) else LevelStage)(network, parts, boxes, bfloat16)


def place(network: nn.Module, devices: Sequence[str | torch.device], image: Tensor, boxes: Sequence[Box]) -> None:
    """Spreads the parts of a generator over devices of one process, as a pipeline would over processes; what it makes lies where its part lies.

    Args:
        network: the generator.
        devices: for each stage one, the first being that of the patches.
        image: a batch of LR patches; only its shape counts.
        boxes: of the levels.

    Raises:
        InputError: more devices than parts, or one that is not there.
    """
    for device in devices:
        check_device(device, "devices")
    for device, own in zip(devices, cut(network, len(devices), image, boxes)):
        for module in (module for number in own for module in network.layers(number)):
            module.to(device).register_forward_pre_hook(_Moving(torch.device(device)))


class _Moving:
    """Brings what a module is given to its device."""

    def __init__(self, device: torch.device):
        self.device = device

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensor.to(self.device) for tensor in inputs)


class Pipeline(Processes):
    """Processes of which each computes a stage of the generator; the last has the critics and the losses. Microbatches keep them all at work.

    Every process knows all weights, so that a checkpoint of one is a checkpoint of all: after each step the gradients are summed over the
    processes, of which each has those of its stage.

    Args:
        microbatches: parts of a batch; batch_size is a multiple of it.
        schedule: "gpipe" (all forward, then all backward) or "1f1b" (backward as soon as possible: less memory, but as many microbatches as there
            are processes).
        minutes: after which a process that waits for another in vain gives up.

    Raises:
        InputError: not started by torchrun, no such schedule, or no number of microbatches.
    """

    leader = -1

    def __init__(self, microbatches: int = 2, schedule: str = "gpipe", minutes: float = 30.0):
        if schedule not in SCHEDULES:
            raise InputError(f"pipeline: no schedule {schedule}; give {' or '.join(SCHEDULES)}")
        microbatches = whole(microbatches, "microbatches", "parts of a batch, such as 2", 1)
        super().__init__(minutes)
        self.microbatches, self.schedule = microbatches, schedule

    def build(self, network: nn.Module, image: Tensor, boxes: Sequence[Box], bfloat16: bool, loss: Callable[[Any, Tensor], Tensor]) -> None:
        """Cuts the generator and prepares both ways through it.

        Args:
            network: the generator.
            image: a batch of LR patches (B, in, N, N, N).
            boxes: of its levels.
            bfloat16: under autocast.
            loss: of a microbatch: (what the last stage gives, LR labels) -> scalar; the mean over the microbatches is lowered.

        Raises:
            InputError: the batch does not consist of equal microbatches, or the generator has fewer parts than there are processes.
        """
        n = self.microbatches
        if len(image) % n:
            cannot = f"a batch of {len(image)} patches cannot be cut into {n} equal microbatches"
            raise InputError(f"pipeline: {cannot}; set batch_size to a multiple of {n}")
        if self.schedule == "1f1b" and n < self.size:
            wants = f"1f1b wants as many microbatches as there are processes, {self.size}, not {n}"
            raise InputError(f"pipeline: {wants}; set schedule to gpipe, or microbatches")
        micro = image[: len(image) // n]
        self.parts = cut(network, self.size, micro, boxes)
        self.stage = stage_of(network, self.parts[self.rank], boxes, bfloat16)
        given, made = self._shapes(network, micro, boxes, bfloat16)
        ways = [PipelineStage(self.stage, self.rank, self.size, self.device, input_args=given, output_args=made) for _ in range(2)]
        self.forward = ScheduleGPipe(ways[0], n)
        self.both = SCHEDULES[self.schedule](ways[1], n, loss_fn=loss)

    def _shapes(self, network: nn.Module, image: Tensor, boxes: Sequence[Box], bfloat16: bool) -> list[tuple[Tensor, ...]]:
        """What this stage is given and what it makes of a microbatch, without numbers."""
        with _Fake(network) as fake:
            tensors: tuple[Tensor, ...] = fake.like(image)
            for own in self.parts[: self.rank + 1]:
                given, tensors = tensors, fake.through(own, tensors, boxes, bfloat16)
        shapes = [[(tensor.shape, tensor.dtype, tensor.requires_grad) for tensor in some] for some in (given, tensors)]
        return [tuple(torch.empty(shape, dtype=kind, device="meta", requires_grad=grad) for shape, kind, grad in some) for some in shapes]

    def run(self, image: Tensor, boxes: Sequence[Box], noises: Sequence[Tensor], labels: Tensor | None = None) -> Any:
        """A batch through all stages; with `labels`, which the loss compares with, and back.

        Returns:
            on the last process what the last stage makes; None on the others, and on the way back.
        """
        self.stage.boxes = boxes
        inputs = (image,) if self.rank == 0 else ()
        named = _named(noises)
        if labels is None:
            with torch.no_grad():
                return self.forward.step(*inputs, **named)
        self.both.step(*inputs, target=labels if self.rank == self.size - 1 else None, return_outputs=False, **named)
        return None

    def exchange(self, module: nn.Module, alike: bool) -> None:
        """Sums the gradients: of the generator each process has those of its stage, of the critics the last has all."""
        weights = [p for p in module.parameters() if p.requires_grad]
        gradients = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in weights])
        dist.all_reduce(gradients)
        for parameter, gradient in zip(weights, gradients.split([p.numel() for p in weights])):
            parameter.grad = gradient.view_as(parameter)

    def from_last(self, value: Any) -> Any:
        """What the last process has, in all of them."""
        box = [value]
        dist.broadcast_object_list(box, src=self.size - 1)
        return box[0]

    def share_statistics(self, network: nn.Module) -> None:
        """Gives every process the batch statistics that each stage has gathered, where there are any."""
        if isinstance(network, PaperGenerator):
            for rank, own in enumerate(self.parts):
                for module in (module for number in own for module in network.layers(number)):
                    for buffer in module.buffers():
                        dist.broadcast(buffer, src=rank)
