"""What the settings of the trainings may be; both hand theirs over before anything is read, so that none ends in a traceback or spoils hours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from numbers import Integral
from typing import Any

import torch

from bundle.errors import NULL, InputError, check_seed, names, number, switch, whole

Check = Callable[[Any, str], Any]
"""Takes a value and the name of its setting, and raises an InputError that names it where the value cannot be."""


def check(values: Mapping[str, Any]) -> None:
    """Checks all values of which the table of this module knows the setting; the others are checked where they are used.

    Args:
        values: by the name of the setting.

    Raises:
        InputError: the first that cannot be; one that says nothing without another; a name of a phase with other capitals than in `phases`.
    """
    for name, value in values.items():
        if name in SETTINGS:
            SETTINGS[name](value, name)
    phases = values.get("phases", [])
    spelt = {phase.lower() for phase in phases}
    for name in ("hidden", "rims", "seen", "costs"):  # names that are no phases are of other rocks, and passed over
        for one in _texts(values.get(name)):
            if one not in phases and one.lower() in spelt:
                raise InputError(f"{name}: {one}, but the phases are {', '.join(phases)}; write names alike")
    if values.get("start_phases") and not values.get("start_from", True):
        raise InputError("start_phases: says which phases of start_from are alike, and there is none; give start_from, or leave it out")


def check_device(value: Any, name: str) -> None:
    """A device of torch that this machine has.

    Raises:
        InputError: it is not there.
    """
    try:
        torch.empty(0, device=torch.device(value))
    except (AssertionError, RuntimeError, TypeError) as error:
        raise InputError(f"{name}: {value} is not there ({str(error).splitlines()[0]}); correct {name}") from error


def _texts(value: Any) -> list[str]:
    """All texts in tables and lists."""
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) else []


def _as_it_is(value: Any) -> Any:
    """16.0 as a text: torch takes whole numbers as such alone, and nobody makes one of it here."""
    return value if isinstance(value, Integral) else str(value)


def _whole(of: str, least: int = 0, most: int | None = None) -> Check:
    return lambda value, name: whole(_as_it_is(value), name, of, least, most)


def _number(of: str, least: float = 0.0, most: float = inf) -> Check:
    return lambda value, name: number(value, name, of, least, most)


def _or_null(known: Check = lambda value, name: None) -> Check:
    def checked(value: Any, name: str) -> None:
        if value == "null":
            raise InputError(f"{name}: null is a text here; give {NULL}")
        if value is not None:
            known(value, name)

    return checked


def _names_by_name(value: Any, name: str) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(one, str) for one in value.values()):
        raise InputError(f"{name}: {value}; give a table of a name for a name, such as {{'clay': 'pore'}}, or {{}}")


def _costs(value: Any, name: str) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(row, Mapping) for row in value.values()):
        raise InputError(f"{name}: {value}; give a table of costs for each label, such as {{'pore': {{'clay': 0.8}}}}, or {{}}")
    for label, row in value.items():
        for phase, cost in row.items():
            number(cost, f"{name}: {label}: {phase}", "a cost", 0.0, 1.0)


def _edges(value: Any, name: str) -> None:
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{name}: {value}; give a list of edges, LR voxels, one for each level, such as [14, 7, 5]")
    for edge in value:
        whole(_as_it_is(edge), name, "LR voxels for each level, such as [14, 7, 5]", 1)


def _betas(value: Any, name: str) -> None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise InputError(f"{name}: {value}; give the two of Adam, such as [0.5, 0.99]")
    for beta in value:
        number(beta, name, "two shares", 0.0, 0.999999)  # Adam divides by 1 - beta


_share = _number("a share", 0.0, 1.0)
_weight = _number("a weight")
_rate = _number("a learning rate, such as 0.0004")

SETTINGS: dict[str, Check] = {
    # of both trainings
    "phases": names,
    "max_epochs": _whole("epochs, such as 200", 1),
    "epoch_length": _whole("iterations, such as 40", 1),
    "snapshots": _whole("epochs, such as 10"),
    "watch_interval": _whole("epochs, such as 1"),
    "start_from": _or_null(),
    "seed": lambda value, name: check_seed(_as_it_is(value)),
    "device": check_device,
    "batch_size": _whole("patches or images a step", 1),
    "g_learning_rate": _rate,
    "d_learning_rate": _rate,
    "decay": _share,
    "ema_decay": _share,
    "feedback_weight": _weight,
    # train.yaml
    "lr_phases": _or_null(names),
    "costs": _or_null(_costs),
    "hidden": _or_null(_names_by_name),
    "rims": _or_null(_names_by_name),
    "rim_share": _share,
    "seen": _or_null(lambda value, name: value == [] or names(value, name)),
    "lone_voxels": _or_null(switch),
    "tolerance": _share,
    "start_phases": _or_null(_names_by_name),
    "frozen_levels": _whole("levels"),
    "devices": _or_null(),
    "patch_weight": _weight,
    "consistency_weight": _weight,
    "slices_per_plane": _or_null(_whole("slices, such as 10", 1)),
    "buffer_volumes": _whole("steps, such as 64"),
    "buffer_slices": _or_null(_whole("slices, such as 30", 1)),
    "betas": _betas,
    "max_grad_norm": _or_null(_number("the length of a gradient, such as 5.0", 1e-6)),
    "noise_std": _number("a standard deviation, 0 for no noise"),
    "grain_radius": _whole("LR voxels, such as 16", 1),
    "adversarial_weight": _weight,
    "n_critic": _whole("steps", 1),
    "warmup_iterations": _whole("iterations"),
    "augment_critics": _or_null(switch),
    "border": _whole("finest voxels"),
    "boxes": _edges,
    # hr_synthesis.yaml and hr_synthesis_inference.yaml
    "resolution": _whole("pixels, such as 128", 8),
    "r1": _weight,
    "r1_interval": _whole("iterations, such as 16"),
    "path_weight": _weight,
    "path_interval": _whole("iterations, such as 8"),
    "mixing": _share,
    "ada_target": _number("a target", -1.0, 1.0),
    "ada_images": _whole("crops, such as 20000", 1),
    "cutout": _share,
    "rotation": _number("degrees", 0.0, 180.0),
    "scaling": _number("a standard deviation, 0 for none"),
    "channels": _whole("channels, such as 16", 1),
    "most_channels": _whole("channels, such as 128", 1),
    "truncation": _number("a share, such as 0.7"),
}
"""What each may be; of a setting that is not here some module says it where it is used."""
