"""The file of trained weights, model.pt: the averaged generator and what its channels mean.

A dictionary, loaded with `weights_only=True`: "model" (state of the generator), "phases" and "lr_phases" (names in label order)
and "scale_factor".
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bundle.errors import InputError
from bundle.io.atomic import atomic_path


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file that `torch.save` wrote, on the CPU, without running code from it.

    Raises:
        InputError: missing or damaged file, or not one of torch.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; train a model first, or correct the path")
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not compare the checksums, and would load altered weights
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch have their own for every kind of damage
        raise InputError(f"{path}: not a checkpoint of torch, or a damaged or incomplete one; copy it again") from error
    raise InputError(f"{path}: damaged, the checksum of {damaged} is wrong; copy it again")


def save_model(path: str | Path, network: nn.Module, phases: Sequence[str], lr_phases: Sequence[str]) -> None:
    """Write model.pt, whole or not at all.

    Args:
        path: of the file.
        network: the averaged generator.
        phases: names of the HR labels, in order.
        lr_phases: names of the LR labels, in order.

    Raises:
        InputError: it cannot be written.
    """
    model = {
        "model": {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()},
        "phases": [str(name) for name in phases],
        "lr_phases": [str(name) for name in lr_phases],
        "scale_factor": int(network.scale_factor),
    }
    with atomic_path(path) as partial:
        torch.save(model, partial)


def load_model(network: nn.Module, path: str | Path, phases: Sequence[str], lr_phases: Sequence[str], scale_factor: int) -> nn.Module:
    """Fill a generator with the weights of model.pt and set it to evaluation.

    Args:
        network: the generator that the config defines; filled in place.
        path: of model.pt.
        phases: names of the HR labels that the config has.
        lr_phases: names of the LR labels that the config has.
        scale_factor: that the config has.

    Returns:
        `network`.

    Raises:
        InputError: the file cannot be read, or belongs to another network, other phases or another scale factor.
    """
    if network.scale_factor != scale_factor:
        finer = f"network_def makes voxels {network.scale_factor} times finer"
        raise InputError(f"{finer}, but scale_factor is {scale_factor}; correct one of them")
    model = load_checkpoint(path)
    missing = [key for key in ("model", "phases", "lr_phases", "scale_factor") if not isinstance(model, dict) or key not in model]
    if missing:
        raise InputError(f"{path}: no trained model (it lacks {', '.join(missing)}); give the model.pt that training writes")
    for key, expected in (("phases", list(phases)), ("lr_phases", list(lr_phases)), ("scale_factor", scale_factor)):
        if model[key] != expected:
            trained = f"{path}: was trained with {key} {model[key]}"
            raise InputError(f"{trained}, but the config has {expected}; correct {key} or give another model")
    difference = _first_difference(model["model"], network.state_dict())
    if difference:
        raise InputError(f"{path}: holds another network than network_def ({difference}); set network_def as it was in training")
    spoilt = [name for name, value in model["model"].items() if not torch.isfinite(value).all()]
    if spoilt:
        raise InputError(f"{path}: {spoilt[0]} holds NaN or infinite weights; train again or give another model")
    network.load_state_dict(model["model"])
    return network.eval()


def _first_difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> str | None:
    """The first entry, in the order of the network, that one state lacks, or else that differs in shape."""
    for name in [*expected, *found]:
        if name not in found:
            return f"{name} is not in the file"
        if name not in expected:
            return f"{name} is only in the file"
    for name in expected:
        if found[name].shape != expected[name].shape:
            return f"{name} is {tuple(found[name].shape)} in the file, {tuple(expected[name].shape)} in network_def"
    return None
