"""A new training that starts from an earlier one: another rock, with other phases too, or more or fewer levels of x2."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

from torch import Tensor, nn

from bundle.checkpoint import check_weights, load_checkpoint
from bundle.engine import AdversarialTrainer
from bundle.errors import InputError
from bundle.networks.generator import LevelGenerator

State = Mapping[str, Tensor]
INNER = (".perturb", ".blur")
"""Ends of the names of what every level but the finest has."""


class Likes(NamedTuple):
    """Which channel of the earlier generator each new one starts from; None: it starts anew."""

    phases: list[int | None]
    inputs: list[int | None]


def warm_start(
    engine: AdversarialTrainer,
    path: str | Path,
    phases: Sequence[str] | None = None,
    lr_phases: Sequence[str] | None = None,
    start_phases: Mapping[str, str] | None = None,
) -> None:
    """Starts a new training from the generator, its average and the critics of an earlier checkpoint, or from the weights of a model.pt.

    What the LR labels hide stays that of the new rock. Levels of the generator, and critics, beyond those that the file has start anew, and levels
    and critics that it has beyond the new ones are left out. A rock with other phases takes the channels of those that are alike; its other
    channels, and its critics, start anew.

    Args:
        engine: the new training.
        path: of the earlier one.
        phases, lr_phases: names of the new rock's phases and of its scan's labels; None: as in the file.
        start_phases: {new phase: phase of the file that it is like}; phases of the same name are alike unless it says otherwise.

    Raises:
        InputError: missing, damaged, of other networks, or of other phases of which none is said to be like a new one.
    """
    state = load_checkpoint(path)
    for name in {"model", "network", "ema", "critics"} & set(state):
        check_weights(path, state[name])
    if "model" in state:  # the averaged generator alone; critics start anew
        average = {f"module.{key}": value for key, value in state["model"].items()}
        count = {key: value for key, value in engine.ema.state_dict().items() if not key.startswith("module.")}
        state = {**state, "network": state["model"], "ema": {**count, **average}, "critics": {}}
    likes = _likes(path, state, engine, phases, lr_phases or phases, start_phases or {})
    if likes:
        state = {**state, "critics": {}}
    try:
        for name in ("network", "ema"):
            part = engine.parts()[name]
            new, old = _cloned(part.state_dict()), _without_further_levels(state[name], part.state_dict())
            if likes:
                old = _of_like_phases(old, new, likes)
            part.load_state_dict({**old, **_own_levels(new, old, engine.parts()["network"])})
        engine.parts()["ema"].n_averaged.zero_()  # the average, too, is of this training
        part = engine.parts()["critics"]
        part.load_state_dict(_critics(state["critics"], _cloned(part.state_dict())))
    except (KeyError, RuntimeError, ValueError) as error:
        lines = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])  # torch names the entries in the second, all of them
        reason = shorten(lines, 300, placeholder=" ...")
        raise InputError(f"{path}: holds other networks than this configuration ({reason}); correct start_from") from error


def _likes(
    path: str | Path, state: Mapping[str, Any], engine: AdversarialTrainer, phases: Sequence[str] | None, lr_phases: Sequence[str] | None,
    start_phases: Mapping[str, str],
) -> Likes | None:  # fmt: skip
    """Where the channels of a rock with other phases come from; None where the phases are those of the file."""
    names = state.get("names", state)
    if phases is None or "phases" not in names:
        return None
    old, old_lr = list(names["phases"]), list(names.get("lr_phases", names["phases"]))
    if (old, old_lr) == (list(phases), list(lr_phases)) and not start_phases:
        return None
    unknown = [name for name in start_phases if name not in phases] + [name for name in start_phases.values() if name not in old]
    if unknown:
        raise InputError(f"start_phases: {', '.join(unknown)} is no phase here ({', '.join(phases)}) or of {path} ({', '.join(old)}); correct the name")
    if not isinstance(engine.network, LevelGenerator):
        raise InputError(f"{path}: is of the phases {', '.join(old)}, and {type(engine.network).__name__} cannot start from other phases than its own")

    def place(name: str, among: Sequence[str]) -> int | None:
        like = start_phases.get(name, name)
        return among.index(like) if like in among else None

    of_phases, of_labels = [place(name, old) for name in phases], [place(name, old_lr) for name in lr_phases]
    if all(like is None for like in of_phases):
        said = f"{path}: is of the phases {', '.join(old)}, none of which is here ({', '.join(phases)})"
        raise InputError(f"{said}; say which are alike, such as --start_phases \"{{'{phases[0]}': '{old[0]}'}}\"")
    noise = len(old_lr)
    # what the trunk takes: labels, noise, phases with what is hidden, a smooth field a phase
    further = [None if like is None else noise + 1 + like for like in of_phases]
    fields = [None if like is None else noise + 1 + len(old) + like for like in of_phases]
    return Likes(of_phases, [*of_labels, noise, *further, *fields])


def _of_like_phases(old: State, new: State, likes: Likes) -> dict[str, Tensor]:
    """The earlier weights in the channels of the new rock; noise fields and kernels, which follow from the number of phases, are the new ones."""
    result = {}
    for key, value in old.items():
        if key.endswith("trunk.0.weight"):
            result[key] = new[key].clone()
            for i, like in enumerate(likes.inputs):
                if like is not None:
                    result[key][:, i] = value[:, like]
        elif key.endswith((".head.weight", ".head.bias")):
            result[key] = new[key].clone()
            for i, like in enumerate(likes.phases):
                if like is not None:
                    result[key][i] = value[like]
        else:
            result[key] = new[key] if "grains." in key or key.endswith(".perturb") else value
    return result


def _cloned(state: State) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in state.items()}


def _without_further_levels(old: State, new: State) -> dict[str, Tensor]:
    """The earlier weights up to the finest level of the new generator, which adds no noise to its logits."""
    last = max((_level(key) for key in new), default=-1)
    return {key: value for key, value in old.items() if _level(key) < last or (_level(key) == last and (key in new or not key.endswith(INNER)))}


def _own_levels(new: State, old: State, network: nn.Module) -> dict[str, Tensor]:
    """What a generator keeps of its own: what its labels hide, how soft they are and how blurred its trunk sees them, how noise is blurred, further
    levels, noise on the logits of a level no longer finest, and smooth noise of another reach (`grain_radius`). Where a part of it does not learn it
    goes on with the blur that it learned with, and smooth noise of another reach does not fit."""
    last = max((_level(key) for key in old), default=-1)
    further = [key for key in new if _level(key) > last >= 0 or (_level(key) == last and key.endswith(INNER) and key not in old)]
    own = {key for key in new if "hidden." in key or key.endswith("softness") or (key.endswith("blur") and _learns(network, key))}
    own |= {key for key in new if "grains." in key and key in old and old[key].shape != new[key].shape and _learns(network, "label_blur")}
    return {key: new[key] for key in new if key in own or key in further}


def _learns(network: nn.Module, blur: str) -> bool:
    """Whether the part learns whose labels or noise a buffer blurs."""
    module = blur.removeprefix("module.").rpartition(".")[0]
    part = network.get_submodule(module or "trunk")  # labels are blurred for the trunk
    return any(parameter.requires_grad for parameter in part.parameters())


def _level(key: str) -> int:
    found = re.search(r"\blevels\.(\d+)\.", key)
    return int(found[1]) if found else -1


def _critics(old: State, new: State) -> dict[str, Tensor]:
    """The earlier critics; those that are new, and levels that an earlier one has not, start anew, and those that the new training has not are left out."""
    before, now = ({key.split(".")[0] for key in state} for state in (old, new))
    own = {key: value for key, value in new.items() if key.split(".")[0] not in before or (_level(key) >= 0 and key not in old)}
    return {key: value for key, value in old.items() if key.split(".")[0] in now and (key in new or _level(key) < 0)} | own
