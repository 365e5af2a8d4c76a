"""Several processes that learn as one: each decodes its own LR patches, and everything after that sees the patches of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from bundle.processes import Processes


class DataParallel(Processes):
    """Processes that share every batch: with batches of b patches, n of them make the steps of one process with n b patches.

    All have the same random numbers, so they draw the same boxes, slices and projections; of the noise each takes the part of its patches.
    The generator's gradients are summed over the processes (`DistributedDataParallel`). What it made is gathered, so losses, critics and
    buffers are the same in all of them: 2D slices are cheap, the generator is not.
    """

    def __init__(self, minutes: float = 30.0):
        super().__init__(minutes)
        self.shares = self.size

    def decoder(self, network: nn.Module) -> nn.Module:
        """What calls the network's `forward_training` and sums the gradients over the processes on the way back."""
        network.share = (self.rank, self.size)
        return DistributedDataParallel(_Decoder(network))

    def whole(self, part: Tensor) -> Tensor:
        """(B, …) of this process -> (size B, …) of all, in the order of their ranks. Gradients reach the part of this process, times `size`:
        `DistributedDataParallel` takes the mean over the processes where their sum is due."""
        return _Whole.apply(part, self.rank, self.size)

    def exchange(self, module: nn.Module, alike: bool) -> None:
        """Takes the mean of gradients that are the same in all processes but for what rounding did. `DistributedDataParallel` did the rest."""
        if alike:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.size

    def sampler(self, dataset: Sized, batch_size: int) -> ShareSampler:
        """Which items of the dataset this process takes."""
        return ShareSampler(len(dataset), batch_size, self.rank, self.size)


class ShareSampler(Sampler[int]):
    """Of every size x batch_size items in a row those that belong to a process: together they take all, in the order of one process.

    Args:
        length: of the dataset; a multiple of size x batch_size.
        batch_size: of each process.
        rank, size: this process, of how many.
    """

    def __init__(self, length: int, batch_size: int, rank: int, size: int):
        self.length, self.batch_size, self.rank, self.size = length, batch_size, rank, size

    def __iter__(self) -> Iterator[int]:
        for start in range(self.rank * self.batch_size, self.length, self.size * self.batch_size):
            yield from range(start, start + self.batch_size)

    def __len__(self) -> int:
        return self.length // self.size


class _Decoder(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, edges: Sequence[int]) -> Any:
        return self.network.forward_training(image, edges)


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, part: Tensor, rank: int, size: int) -> Tensor:
        context.rank, context.size = rank, size
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(size)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return context.size * gradient.chunk(context.size)[context.rank], None, None
