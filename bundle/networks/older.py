"""Weights that older versions saved."""

from torch import Tensor, nn


def bring_up(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """To be registered as a hook before weights are loaded, by modules whose method `bring_up` completes those of older versions."""
    module.bring_up(state, prefix)
