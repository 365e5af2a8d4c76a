"""A new training that starts from an earlier one: another rock, or further levels of x2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from bundle.checkpoint import load_checkpoint
from bundle.engine import AdversarialTrainer
from bundle.errors import InputError


def warm_start(engine: AdversarialTrainer, path: str | Path) -> None:
    """Starts a new training from the generator, its average and the critics of an earlier checkpoint, or from the weights of a model.pt.

    What the LR labels hide stays that of the new rock. Levels of the generator, and critics, beyond those that the file has start anew.

    Raises:
        InputError: missing, damaged, or of other networks.
    """
    state = load_checkpoint(path)
    if isinstance(state, dict) and "model" in state:  # the averaged generator alone; critics start anew
        average = {f"module.{key}": value for key, value in state["model"].items()}
        count = {key: value for key, value in engine.ema.state_dict().items() if not key.startswith("module.")}
        state = {"network": state["model"], "ema": {**count, **average}, "critics": {}}
    try:
        for name, own in (("network", _own_levels), ("ema", _own_levels), ("critics", _own_critics)):
            part = engine.parts()[name]
            new = {key: value.clone() for key, value in part.state_dict().items()}
            part.load_state_dict({**state[name], **own(new, state[name])})
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])  # torch names the first entry in the second line
        raise InputError(f"{path}: holds other networks than this configuration ({reason}); correct start_from") from error


def _own_levels(new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a generator keeps of its own: what its labels hide, further levels, and the noise on the logits of a level that is the finest no more."""
    last = max((_level(key) for key in old), default=-1)
    further = [key for key in new if _level(key) > last >= 0 or (_level(key) == last and key.endswith(".perturb") and key not in old)]
    return {key: new[key] for key in new if "hidden." in key or key in further}


def _level(key: str) -> int:
    found = re.search(r"\blevels\.(\d+)\.", key)
    return int(found[1]) if found else -1


def _own_critics(new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    known = {key.split(".")[0] for key in old}
    return {key: value for key, value in new.items() if key.split(".")[0] not in known}
