"""The processes that torchrun started for a training, joined."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sized
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import Sampler

from bundle.errors import InputError


class Processes:
    """Joins the processes of torchrun.

    Args:
        minutes: after which a process that waits for another in vain gives up.

    Attributes:
        rank, size: this process, of how many.
        device: the GPU of this process, or the processor.
        leads: whether this process logs and writes for all.
        shares: processes that each take patches of their own.
        neighbours: processes on this machine, this one included, that share the memory of `device`.

    Raises:
        InputError: not started by torchrun.
    """

    leader = 0

    def __init__(self, minutes: float = 30.0):
        if not dist.is_torchelastic_launched():
            raise InputError(
                "parallel: this configuration is for several processes; start it with `torchrun --nproc_per_node 2 -m monai.bundle run training ...`"
            )
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % gpus) if gpus else torch.device("cpu")
        if gpus:
            torch.cuda.set_device(self.device)
        if not dist.is_initialized():
            timeout = timedelta(minutes=minutes)
            store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
            if os.environ["GROUP_WORLD_SIZE"] == "1":  # one machine: else its addresses of before a restart would be taken for those of now
                store = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
            dist.init_process_group("nccl" if gpus else "gloo", store=store, rank=rank, world_size=size, timeout=timeout)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.leads = self.rank == self.leader % self.size
        self.shares = 1
        self.neighbours = -(-int(os.environ["LOCAL_WORLD_SIZE"]) // max(gpus, 1))
        if not self.leads:
            logging.disable(logging.INFO)  # one tells it for all

    def sampler(self, dataset: Sized, batch_size: int) -> Sampler[int] | None:
        """Which items of a dataset this process takes; None for all."""
        return None

    def decoder(self, network: nn.Module) -> Callable[..., Any]:
        """What to call for the network's `forward_training`."""
        return network.forward_training

    def whole(self, part: Tensor) -> Tensor:
        """(B, …) of this process -> that of all processes that share the batch."""
        return part

    def exchange(self, module: nn.Module, alike: bool) -> None:
        """Makes the gradients of a module the same in all processes.

        Args:
            module: the generator, or the critics.
            alike: whether every process has computed all of them.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Leaves the other processes."""
        dist.destroy_process_group()
