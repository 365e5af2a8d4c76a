"""What a training will take of memory, found by going through a step without computing; and what would fit where it is too much."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from bundle.engine import straight_through
from bundle.errors import InputError
from bundle.io.scale import check_network
from bundle.losses.feedback import facing, slice_statistics
from bundle.losses.patches import MOST_PIXELS, Sheets, SlicedWasserstein
from bundle.memory import LiveBytes, free_memory, size_text
from bundle.trainer import SuperResolutionTrainer, level_scales, of_box
from bundle.transforms.downsample import block_mean

logger = logging.getLogger(__name__)

# A step takes up to twice its tensors, for the gaps between them and the work space of convolutions, but not more than this beside them: larger
# blocks are given back to the system (measured: docs/scaling.md).
GAPS = 450 * 2**20
HALF, SINGLE = 2, 4  # bytes of a number
FURTHER = 128  # LR voxels by which a box is enlarged to see whether a critic takes its slices: that of the paper takes 192 pixels, 96 voxels at 2x


def training_memory(trainer: SuperResolutionTrainer, batch_size: int, edges: Sequence[int], checkpointing: bool | None = None) -> int:
    """Bytes that a training takes beyond what it holds before its first step.

    Args:
        trainer: as it would run.
        batch_size: LR patches a step of this process. Of processes that share a batch each holds what all of them made; of a pipeline the whole
            generator is counted.
        edges: of the boxes, LR voxels.
        checkpointing: of the generator; None leaves it as it is.
    """
    tensors = _step(trainer, batch_size, edges, checkpointing) + _kept(trainer, batch_size, edges)
    return tensors + min(tensors, GAPS)


def check_training(trainer: SuperResolutionTrainer, batch_size: int, scale_factor: int) -> None:
    """Says what the training will take, once generator, boxes and patches fit each other.

    Raises:
        InputError: the generator makes voxels of another size than `scale_factor` says; there is not one box a level; a box has
            slices smaller than a patch that is compared or than a critic takes; critics see slices whose border is no whole number of their
            voxels; or it is more than is free: names the settings with which it fits.
            Of a generator that is spread over devices a warning says so: what each of them takes is not known.
    """
    check_network(trainer.network.scale_factor, scale_factor)
    levels = len(getattr(trainer.network, "levels", trainer.boxes))
    if len(trainer.boxes) != levels:
        raise InputError(f"boxes: {trainer.boxes} for {levels} levels of x2; give one edge, LR voxels, for each")
    patch = getattr(trainer.patches, "patch", 0)
    for scale, edge, slices in zip(level_scales(trainer.network, trainer.boxes), trainer.boxes, trainer.slice_sizes(trainer.boxes)):
        if trainer.critics and trainer.border * scale % trainer.network.scale_factor:
            step = trainer.network.scale_factor // min(level_scales(trainer.network, trainer.boxes))
            raise InputError(f"border: {trainer.border} finest voxels are no whole voxels at {scale}x, where a critic looks; give a multiple of {step}")
        if slices < patch:
            small = f"boxes: {edge} LR voxels at {scale}x are slices of {slices} pixels, smaller than a patch of {patch}"
            raise InputError(f"{small}; set larger boxes, or a smaller patches#patch")
        for critic in (trainer.critics[name] for group in trainer.planes if (name := f"{group}_{scale}x") in trainer.critics):
            least = next((more for more in range(edge, edge + FURTHER) if _takes(critic, trainer, slices + (more - edge) * scale)), edge)
            if least > edge:  # else it takes them, or none at all, and says why
                small = f"boxes: {edge} LR voxels at {scale}x are slices of {slices} pixels, smaller than a critic takes"
                raise InputError(f"{small}; set that edge to {least} or more")
    need, sharing = training_memory(trainer, batch_size, trainer.boxes), _sharing(trainer)
    free = free_memory(trainer.state.device) // sharing
    each = f" for each of {sharing} processes" if sharing > 1 else ""
    takes = f"training takes about {size_text(need)} of memory, {size_text(free)} are free{each}"
    logger.info(takes)
    if need <= free:
        return
    if trainer.spread:
        logger.warning(f"one device has {size_text(free)} free; whether the {size_text(need)} fit as they are spread is seen in the first steps")
        return
    for advice, smaller in _smaller(trainer, batch_size):
        if smaller <= free:
            raise InputError(f"{takes}; set {advice}: {size_text(smaller)}")
    raise InputError(f"{takes}, and no smaller setting fits; free memory{', or run fewer processes' if sharing > 1 else ''}")


def _takes(critic: nn.Module, trainer: SuperResolutionTrainer, pixels: int) -> bool:
    """Whether a critic scores slices of so many pixels along an edge."""
    try:
        with torch.no_grad():
            critic(torch.zeros((), device=trainer.state.device).expand(1, trainer.network.out_channels, pixels, pixels))
    except RuntimeError:  # of a kernel that is larger than what is left of a slice
        return False
    return True


def _smaller(trainer: SuperResolutionTrainer, batch_size: int) -> Iterator[tuple[str, int]]:
    """Settings in config words and what they take, from what costs the result least: time, then patches a step, then their size."""
    edges, saving = list(trainer.boxes), hasattr(trainer.network, "checkpointing")
    advice = ""
    if saving and not trainer.network.checkpointing:
        advice = "checkpointing to true"
        yield advice, training_memory(trainer, batch_size, edges, True)
    checkpointing = True if saving else None
    for batch in range(batch_size - 1, 0, -1):
        words = [*([advice] if advice else []), f"batch_size to {batch}"]
        yield " and ".join(words), training_memory(trainer, batch, edges, checkpointing)
    least = max(4, -(-getattr(trainer.patches, "patch", 0) // 2))  # LR voxels whose slices at 2x hold a patch
    while len(edges) > 1 and edges[0] - 1 >= edges[1] + 4 or len(edges) == 1 and edges[0] > least:
        edges = [edges[0] - 1, *edges[1:]]
        words = [*([advice] if advice else []), "batch_size to 1", f"boxes to {edges}"]
        yield ", ".join(words), training_memory(trainer, 1, edges, checkpointing)


def _step(trainer: SuperResolutionTrainer, batch_size: int, edges: Sequence[int], checkpointing: bool | None) -> int:
    """Bytes of the tensors of a step with its losses, at their most."""
    from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode  # takes a moment to import

    network, device, shares = trainer.network, trainer.state.device, _shares(trainer)
    patch = network.patch_edge(edges)
    with torch.random.fork_rng([]):
        boxes = network.nested_boxes(patch, edges)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(mode):
        network, critics, consistency = (copy.deepcopy(part) for part in (network, trainer.critics, trainer.consistency))
    if checkpointing is not None:
        network.checkpointing = checkpointing
    with torch.random.fork_rng([]), mode, LiveBytes() as tensors:
        image = torch.empty(batch_size, network.in_channels, patch, patch, patch, device=device).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(device.type, torch.bfloat16, enabled=trainer.bfloat16):
            made = network.forward_boxes(image, boxes)
        labels = image[:, :-1].repeat(shares, 1, 1, 1, 1)
        made = [torch.cat([p, *(torch.empty_like(p) for _ in range(shares - 1))]) for p in made]
        volumes = [(scale, p.to(device), box) for scale, p, box in zip(level_scales(network, boxes), made, boxes)]
        if trainer.hard_labels:
            volumes = [(scale, straight_through(p), box) for scale, p, box in volumes]
        fakes = {name: [fake for fake, _ in parts] for name, parts in trainer.fakes(volumes, labels).items()}
        for name, critic in critics.items():
            for fake in fakes[name]:
                trainer.adversarial.critic_loss(critic, torch.empty_like(fake), fake.detach()).backward()
        critics.requires_grad_(False)
        total = torch.zeros((), device=device)
        for _, p, box in volumes:
            total = total + consistency(p, of_box(labels, box))
        for name, critic in critics.items():
            total = total + sum(trainer.adversarial.generator_loss(critic, torch.empty_like(fake), fake) for fake in fakes[name])
        for group in trainer.planes:
            for scale, _, _ in volumes:
                fake = torch.cat(fakes[f"{group}_{scale}x"])
                if trainer.patches is not None:
                    total = total + _patches(trainer.patches, fake)
                if trainer.feedback is not None and scale == network.scale_factor:
                    total = total + slice_statistics(fake, facing(fake.detach())).mean()
        total.backward()
    return tensors.peak


def _patches(patches: SlicedWasserstein, fake: Tensor) -> Tensor:
    """Something that holds as much as the distance between patches: which of them it takes depends on their values, how many does not."""
    total, pool = torch.zeros((), device=fake.device), fake.detach().repeat(4, 1, 1, 1)
    first = torch.zeros(patches.samples, dtype=torch.long, device=fake.device)
    direction = torch.empty(patches.patch**2 * patches.n_phases, patches.projections, device=fake.device)
    for factor in patches.pyramid:
        if fake.shape[-1] // factor >= patches.patch:
            newest, known = (Sheets.of(block_mean(x, factor)) for x in (fake, pool))
            for _ in range(patches.n_phases):
                total = total + (patches.project(newest, first, direction) - patches.project(known, first, direction)).square().mean()
    return total


def _shares(trainer: SuperResolutionTrainer) -> int:
    """Processes that each make a part of every batch."""
    return 1 if trainer.parallel is None else trainer.parallel.shares


def _sharing(trainer: SuperResolutionTrainer) -> int:
    """Processes that share the free memory, each of which takes as much. Of a pipeline each holds a part of what is counted."""
    return 1 if trainer.parallel is None or trainer.spread else trainer.parallel.neighbours


def _kept(trainer: SuperResolutionTrainer, batch_size: int, edges: Sequence[int]) -> int:
    """Bytes that stay from step to step: gradients and moments of the optimizers, block means of the images, and the buffer once it is full."""
    weights = [p for part in (trainer.network, trainer.critics) for p in part.parameters() if p.requires_grad]
    shares = _shares(trainer)
    total = (3 + (shares > 1)) * SINGLE * sum(p.numel() for p in weights)  # gradients that are exchanged are kept twice
    scale_factor, scales = trainer.network.scale_factor, level_scales(trainer.network, edges)
    if trainer.patches is not None:
        for group in trainer.planes:
            pixels = min(sum(image.size for image in trainer.patches.images[group]), MOST_PIXELS)
            blocks = {factor * scale_factor // scale for factor in trainer.patches.pyramid for scale in scales}
            total += sum(SINGLE * trainer.patches.n_phases * pixels // block**2 for block in blocks)
    if trainer.buffer is not None:
        for side in trainer.slice_sizes(edges):
            for planes in trainer.planes.values():
                slices = shares * batch_size * len(planes) * (trainer.slices_per_plane or side)
                kept = min(slices, trainer.buffer.slices or slices)
                total += trainer.buffer.steps * kept * HALF * trainer.network.out_channels * side**2
    return total
