"""The default generator: levels of x2, most of the work on the LR grid, valid convolutions only."""

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bundle.errors import NULL, InputError, switch
from bundle.networks.fields import SmoothNoise, softened
from bundle.networks.hidden import HiddenPhases
from bundle.networks.levels import Level, ResidualBlock, conv3
from bundle.networks.older import bring_up
from bundle.networks.windows import blocks, crop, empty_window, put, trimmed

Box = tuple[tuple[int, int, int], int]
"""A cube in LR voxels: start (z, y, x) relative to the first voxel of the patch, and edge length."""


class LevelGenerator(nn.Module):
    """One-hot LR labels and noise -> phase probabilities `2^levels` times finer.

    All convolutions are valid: a level trims four voxels of its grid on each side, so that what comes out is exact and windows
    cut anywhere agree. `halo` LR voxels of context are needed on every side; `forward` makes them by replicating the border.

    Args:
        in_channels: LR phases + 1 (noise, last).
        out_channels: phases of the result.
        channels: features on the LR grid and then on each finer level; the number of levels is `len(channels) - 1`.
        blocks: residual blocks on the LR grid, two convolutions each.
        grain_radius: LR voxels that smooth noise reaches; with it come the size and the reach of the grains that come out of hiding.
        logit_bound: bound of the class logits. Labels do not depend on it, but their gradients do: with 4 they hardly pass where a
            phase is certain, and nothing new appears there.
        softness: how far the enlarged labels, of which the levels learn corrections, are smoothed beforehand, 0..0.5: against the staircase of the LR
            voxels. It is saved with the weights.
        label_blur: 1: the trunk sees labels that are blurred by a voxel. Where it sees the staircase of the LR voxels it draws it, as the cheapest way to
            rough surfaces; where it does not they are rough by noise. 0: it sees them as they are. It is saved with the weights.
        texture: standard deviation of the corrections that the heads make before any training; 0 starts from the enlarged labels.
        perturbation: standard deviation of the noise that every level but the finest adds to the logits.
        blur: 1: the noise that the features of every level but the finest get is blurred by a voxel, so that what it decides does not stand in
            rows on its grid; 0: it is white. It is saved with the weights.
        grain_perturbation: standard deviation of smooth noise, some LR voxels wide, that is added to the logits of the LR labels: it decides
            which grains turn, where the LR does not say. Without it all of a phase turns at once.
        noise_std: of the noise that `forward` and `forward_training` draw for the finer levels, and that is given to it; 0 is the paper's ablation.
        checkpointing: training keeps no features within the trunk and the levels, and computes them again on the way back: slower, in less memory.
        block: edge, in voxels of the level before, of what the finest level makes of a window at a time.
    """

    margins: list[int]  # LR to finest: voxels of level k's grid around its core that the finer levels need
    noise_margins: list[int]  # of each level: voxels on each side that its noise has more than its features

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (64, 48, 32, 16),
        blocks: int = 2,
        grain_radius: int = 16,
        logit_bound: float = 4.0,
        softness: float = 0.5,
        label_blur: float = 1.0,
        texture: float = 0.2,
        perturbation: float = 0.3,
        blur: float = 1.0,
        grain_perturbation: float = 0.5,
        noise_std: float = 1.0,
        checkpointing: bool = False,
        block: int = 32,
    ):
        super().__init__()
        self.checkpointing = switch(checkpointing, "checkpointing")
        self.share: tuple[int, int] = (0, 1)  # of the batch of a training step: this part, of how many
        self.in_channels, self.out_channels = in_channels, out_channels
        self.trunk = nn.Sequential(
            conv3(in_channels + 2 * out_channels, channels[0]), nn.LeakyReLU(0.2), *(ResidualBlock(channels[0]) for _ in range(blocks))
        )
        perturbations = [perturbation] * (len(channels) - 2) + [0.0]  # blobs of a single voxel would be salt and pepper
        blurs = [blur] * (len(channels) - 2) + [None]  # nothing enlarges the finest
        sizes = zip(channels[:-1], channels[1:])
        self.levels = nn.ModuleList(Level(a, b, out_channels, texture, p, q) for (a, b), p, q in zip(sizes, perturbations, blurs))
        self.logit_bound, self.noise_std = logit_bound, noise_std
        self.grain_perturbation = grain_perturbation
        self.grains = SmoothNoise(out_channels, grain_radius)
        self.hidden = HiddenPhases(in_channels - 1, out_channels, grain_radius, noise_std)
        self.register_buffer("softness", torch.tensor(softness))
        self.register_buffer("label_blur", torch.tensor(float(label_blur)))
        self.register_load_state_dict_pre_hook(bring_up)
        self.reach: int = self.hidden.reach
        self._found = None  # what `corrected` found out about a patch, which `coarse` need not find out again
        self.trunk_trim: int = self.reach + 2 + 2 * blocks  # what the labels' blur, the first convolution and the blocks trim
        self.block: int = block
        self._measure()

    def _measure(self) -> None:
        """Sets what follows from the number of levels."""
        self.scale_factor: int = 2 ** len(self.levels)
        margin = [0]
        for _ in range(len(self.levels)):  # context a level needs from the one before it, from the finest to the coarsest
            margin.insert(0, (margin[0] + 5) // 2)
        self.margins = margin
        self.noise_margins = [level.noise_margin for level in self.levels]
        self.halo: int = self.trunk_trim + margin[0]

    @torch.jit.unused
    def bring_up(self, state: dict[str, Tensor], prefix: str) -> None:
        """Completes weights saved until version 0.9.4: their trunk sees the labels as they are."""
        state.setdefault(prefix + "label_blur", torch.zeros_like(self.label_blur))

    @torch.jit.unused
    def stop_at(self, scale_factor: int) -> "LevelGenerator":
        """Leaves the levels beyond a scale out, in place: what it makes then is what the losses of that level saw in training. Returns itself.

        Raises:
            InputError: no level has the scale.
        """
        scales = [2 ** (k + 1) for k in range(len(self.levels))]
        if scale_factor not in scales:
            known = ", ".join(map(str, scales))
            raise InputError(f"output_scale: no level of the model makes voxels {scale_factor} times finer; give {known} or {NULL}")
        self.levels = self.levels[: scales.index(scale_factor) + 1]
        self._measure()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """(B, in, D, H, W) one-hot + noise -> (B, out, sD, sH, sW) probabilities; the finer noise is drawn here."""
        h = self.halo
        padded = F.pad(image, [h, h, h, h, h, h], mode="replicate")
        noise: list[Tensor] = []
        for scale, _, shape in self.noise_windows([image.shape[2], image.shape[3], image.shape[4]]):
            drawn = torch.randn([image.shape[0], 1, shape[0], shape[1], shape[2]], dtype=image.dtype, device=image.device)
            noise.append(self.noise_std * drawn)
        return self.forward_window(padded, noise)

    @torch.jit.export
    def noise_windows(self, size: list[int]) -> list[tuple[int, int, list[int]]]:
        """Noise that a core of `size` LR voxels needs: for each level (scale, offset from scale * core start, shape)."""
        windows: list[tuple[int, int, list[int]]] = []
        scale = 1
        for i in range(len(self.margins) - 1):
            margin = 2 * self.margins[i] - 2 + self.noise_margins[i]
            scale = scale * 2
            windows.append((scale, -margin, [scale * n + 2 * margin for n in size]))
        return windows

    @torch.jit.export
    def forward_window(self, image: Tensor, noise: list[Tensor]) -> Tensor:
        """Exact probabilities of a core: (B, in, d+2 halo, …) and `noise_windows` -> (B, out, s d, s h, s w)."""
        return self.window(image, noise, labels=False, probabilities=True)[1]

    @torch.jit.export
    def window(self, image: Tensor, noise: list[Tensor], labels: bool = True, probabilities: bool = False) -> tuple[Tensor, Tensor]:
        """What is asked for of a core, as `forward_window`: the most probable phases (B, 1, s d, s h, s w) uint8 and the probabilities.

        The finest level, which takes most of the time, goes block by block, to stay in the processor's cache. What is not asked for is empty.
        """
        x, logits = self.coarse(image)
        for i, level in enumerate(self.levels):  # TorchScript knows no self.levels[:-1]
            if i + 1 < len(self.levels):
                x, logits = level(x, logits, noise[i])
                x, logits = self.inner(i, x, logits)
        size = [x.shape[2] - 4, x.shape[3] - 4, x.shape[4] - 4]
        result = empty_window(image, self.out_channels, [2 * n for n in size], labels, probabilities)
        for start, shape in blocks(size, self.block):
            around = [n + 4 for n in shape]
            noise_block = crop(noise[-1], [2 * a for a in start], [2 * n + 4 + 2 * self.noise_margins[-1] for n in shape])
            finest = self.levels[-1](crop(x, start, around), crop(logits, start, around), noise_block)[1]
            if labels:
                put(finest.argmax(1, keepdim=True), result[0], [2 * a for a in start])
            if probabilities:
                put(self.probabilities(finest), result[1], [2 * a for a in start])
        return result

    def inner(self, i: int, x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What the level after level `i` needs of its features and logits."""
        cut = 2 * self.margins[i] - 4 - self.margins[i + 1]
        return trimmed(x, cut), trimmed(logits, cut)

    @torch.jit.unused
    def corrected(self, image: Tensor) -> Tensor:
        """The LR labels with what they hide, one-hot: what the losses hold the result to. (B, in, N, N, N) -> (B, in - 1, N, N, N).

        Within `reach` of the border, where the result of a patch never lies, they are as they came.
        """
        labels = image[:, :-1].clone()
        inner = trimmed(labels, self.reach)
        phases = self.hidden(image[:, :-1], image[:, -1:])
        self._found = weakref.ref(image), image._version, self.hidden.threshold._version, phases
        inner.copy_(phases[:, : labels.shape[1]])
        return labels

    @torch.jit.unused
    def _once_found(self, image: Tensor) -> Tensor | None:
        """What `corrected` has found for this very patch, once."""
        found, self._found = self._found, None
        same = found is not None and found[0]() is image and found[1:3] == (image._version, self.hidden.threshold._version)
        return found[3] if same else None

    def coarse(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features on the LR grid, and logits that say what the LR label says, with smooth noise: the levels learn corrections of them."""
        noise = self.grains(trimmed(image[:, -1:], self.hidden.walk))
        inner = trimmed(image, self.reach)
        found = None if torch.jit.is_scripting() else self._once_found(image)
        phases = self.hidden(image[:, : self.in_channels - 1], image[:, -1:]) if found is None else found
        labels, seen = softened(inner[:, :-1], self.label_blur, beside=0.25), softened(phases, self.label_blur, beside=0.25)
        x = self.trunk(torch.cat([labels, trimmed(inner[:, -1:], 1), seen, trimmed(noise, 1)], 1))
        t = self.trunk_trim - self.reach
        soft = softened(trimmed(phases, t - 1), self.softness)
        return x, soft * (0.75 * self.logit_bound) + self.grain_perturbation * trimmed(noise, t)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax over the phases; logits bounded by b tanh(x/b), since a saturated softmax stops learning."""
        return torch.softmax(self.logit_bound * torch.tanh(logits / self.logit_bound), dim=1)

    @torch.jit.unused
    def held(self, logits: Tensor) -> Tensor:
        """The logits, pulled back in training where they are beyond twice the bound: there the softmax hardly changes, and nothing else would stop them."""
        if logits.requires_grad:
            x, limit = logits.detach(), 2 * self.logit_bound
            pull = (x - x.clamp(-limit, limit)) * (x.shape[1] / x.numel())
            logits.register_hook(lambda gradient: gradient + pull)  # must not hold the logits themselves, or they are never freed
        return logits

    @torch.jit.unused
    def forward_training(self, image: Tensor, edges: Sequence[int]) -> list[tuple[int, Tensor, Box]]:
        """What the losses see: (scale, probabilities, box in LR voxels of the patch) a level, at random nested boxes of `edges` LR voxels."""
        boxes = self.nested_boxes(image.shape[-1], edges)
        return [(2 ** (k + 1), p, box) for k, (p, box) in enumerate(zip(self.forward_boxes(image, boxes), boxes))]

    @torch.jit.unused
    def forward_boxes(self, image: Tensor, boxes: Sequence[Box]) -> list[Tensor]:
        """Training: every level decodes only its own box of the patch, so memory per level does not grow with the scale.

        Args:
            image: (B, in, N, N, N), one-hot + noise of an LR patch.
            boxes: one `Box` a level, each inside the one before with room to spare (see `nested_boxes`).

        Returns:
            probabilities a level: (B, out, m 2^k, m 2^k, m 2^k), k = 1, 2, … for a box of m LR voxels.
        """
        x, logits = self.start(image)
        result = []
        for k, noise in enumerate(self.box_noise(len(image), boxes, image.device)):
            x, logits, probabilities = self.decode(k, x, logits, noise, boxes)
            result.append(probabilities)
        return result

    @torch.jit.unused
    def start(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Training: `coarse` of LR patches."""
        return self._kept(self.coarse, image)

    @torch.jit.unused
    def part_count(self) -> int:
        """Parts between which it may be cut: all before the first level, and the levels."""
        return 1 + len(self.levels)

    @torch.jit.unused
    def layers(self, number: int) -> list[nn.Module]:
        """What part 0, all before the first level, or the part of a level consists of."""
        return [self.levels[number - 1]] if number else [self.trunk, self.grains, self.hidden]

    @torch.jit.unused
    def box_noise(self, batch: int, boxes: Sequence[Box], device: torch.device) -> list[Tensor]:
        """Training: noise of each level for boxes, (batch, 1, n, n, n)."""
        part, parts = self.share  # one draws what all draw, so that noise does not depend on how many share the batch
        edges = [2 ** (k + 1) * edge + 4 + 2 * self.noise_margins[k] for k, (_, edge) in enumerate(boxes)]
        drawn = [torch.randn(parts * batch, 1, n, n, n, device=device) for n in edges]
        return [self.noise_std * noise.chunk(parts)[part] for noise in drawn]

    @torch.jit.unused
    def decode(self, k: int, x: Tensor, logits: Tensor, noise: Tensor, boxes: Sequence[Box]) -> tuple[Tensor, Tensor, Tensor]:
        """Training: level k at its box, of the features and logits of what is before it -> its features, logits and probabilities."""
        # two voxels of the coarser grid are four of this one: what interpolation and the two convolutions trim
        low, edge = [2**k * s - 2 for s in boxes[k][0]], boxes[k][1]
        # first voxel of x on its own grid, relative to the patch
        origin = [2 * (2 ** (k - 1) * s - 2) + 4 for s in boxes[k - 1][0]] if k else [self.trunk_trim] * 3
        offset, size = [a - o for a, o in zip(low, origin)], [2**k * edge + 4] * 3
        x, logits = self._kept(self.levels[k], crop(x, offset, size), crop(logits, offset, size), noise)
        return x, logits, self.probabilities(self.held(logits))

    @torch.jit.unused
    def _kept(self, part: Callable[..., tuple[Tensor, Tensor]], *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What a part makes of its inputs, which alone are kept for the way back where features are not (Chen et al. 2016)."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return part(*inputs)
        return checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)

    @torch.jit.unused
    def patch_edge(self, edges: Sequence[int]) -> int:
        """LR voxels of a training patch whose first level decodes a box of `edges[0]`."""
        return edges[0] + 4 + 2 * self.trunk_trim

    @torch.jit.unused
    def nested_boxes(self, patch: int, edges: Sequence[int]) -> list[Box]:
        """Random nested boxes of `edges` LR voxels, one a level, for a patch of `patch` LR voxels.

        Raises:
            InputError: the edges do not fit.
        """
        low, size = self.trunk_trim, patch - 2 * self.trunk_trim
        start = [low] * 3
        boxes: list[Box] = []
        for edge in edges:
            context = 1 if boxes else 2  # LR voxels that hold the two voxels of the coarser grid that a level needs
            free = size - edge - 2 * context
            if free < 0:
                raise InputError(f"boxes: {list(edges)} LR voxels do not lie in each other and in a patch of {patch}; each needs 2 less than the one before")
            start = [s + context + int(torch.randint(free + 1, ())) for s in start]
            boxes.append(((start[0], start[1], start[2]), edge))
            size = edge
        return boxes
