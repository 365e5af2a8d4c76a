"""What is done to a generator between its definition and its use, as the configs say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from bundle.errors import InputError, switch
from bundle.networks.generator import LevelGenerator
from bundle.networks.hidden import HiddenPhases


def hiding(network: nn.Module, shares: Sequence[Sequence[float]], labels: np.ndarray, rims: Sequence[int] = ()) -> nn.Module:
    """The generator, told how much its LR labels hide in a volume (z, y, x) of them, and which of them are rims.

    Raises:
        InputError: something is hidden, but the generator cannot bring it back.
    """
    if any(share > 0 for row in shares for share in row):
        if not isinstance(getattr(network, "hidden", None), HiddenPhases):
            raise InputError(f"hidden: {type(network).__name__} cannot bring phases back; set hidden and rims to {{}}")
        network.hidden.hide(shares, rims)
        network.hidden.calibrate(labels)
    return network


def unblurred(network: nn.Module, wanted: bool) -> nn.Module:
    """The generator, which sees the labels as they are if that is `wanted`, and whose noise may then turn single voxels; else as it was defined."""
    if wanted:
        for name, buffer in network.named_buffers():
            if name.split(".")[-1] in ("label_blur", "blur"):
                buffer.zero_()
    return network


def frozen(network: nn.Module, levels: int, started: bool = True) -> nn.Module:
    """The generator, of which the trunk and the first levels stay as they are in training; 0 trains all.

    Raises:
        InputError: it has no levels, none would be left to train, or what is frozen has not `started` from an earlier training.
    """
    if levels and not started:
        raise InputError(f"frozen_levels: {levels} would keep the weights as chance gave them; set start_from to an earlier training, or give 0")
    if levels:
        parts = list(getattr(network, "levels", []))
        if not isinstance(levels, int) or not 0 < levels < len(parts):
            raise InputError(f"frozen_levels: {levels} of the {len(parts)} levels of {type(network).__name__} cannot be frozen; leave one to train, or give 0")
        for part in [network.trunk, *parts[:levels]]:
            part.requires_grad_(False)
    return network


def compiled(network: nn.Module, wanted: bool | str) -> nn.Module:
    """The generator, whose parts torch compiles when they are first used; the weights keep their names. Not compiled unless wanted."""
    if switch(wanted, "compile"):
        for part in [network.trunk, *network.levels] if isinstance(network, LevelGenerator) else network.children():
            part.compile()
    return network
