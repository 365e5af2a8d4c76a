"""The file of trained weights, model.pt: the averaged generator and what its channels mean.

A dictionary, loaded with `weights_only=True`: "model" (state of the generator), "phases" and "lr_phases" (names in label order),
"scale_factor", "learned_with" (settings that are no weights, since version 1.0.0), and "lr_voxel_size" (µm, of the scan it learned from;
older files lack it).
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bundle.errors import NULL, InputError
from bundle.io.atomic import atomic_path
from bundle.io.scale import check_network

logger = logging.getLogger(__name__)

FIXED = ("logit_bound", "grain_perturbation")  # settings of a generator that stay as it learned with them


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read the dictionary that `torch.save` wrote to a file, on the CPU, without running code from it.

    Raises:
        InputError: missing or damaged file, not one of torch, or one of something else than a dictionary.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; train a model first, or correct the path")
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not compare the checksums, and would load altered weights
            damaged = archive.testzip()
        state = torch.load(path, map_location="cpu", weights_only=True) if damaged is None else None
    except Exception as error:  # zipfile, pickle and torch have their own for every kind of damage
        raise InputError(f"{path}: not a checkpoint of torch, or a damaged or incomplete one; copy it again") from error
    if damaged is not None:
        raise InputError(f"{path}: damaged, the checksum of {damaged} is wrong; copy it again")
    if not isinstance(state, dict):
        raise InputError(f"{path}: no trained model (a {type(state).__name__}); give a file that training writes")
    return state


def save_state(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write what `load_checkpoint` reads, whole or not at all: equal states as equal bytes.

    Raises:
        InputError: it cannot be written.
    """
    with atomic_path(path) as partial:
        try:
            with partial.open("wb") as file:  # given a path, torch writes its name, here a random one, into the file
                torch.save(dict(state), file)
        except RuntimeError as error:  # of torch's own writer, which tells a full disk from nothing else
            if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
                raise
            raise OSError("the disk is full, or torch could not write to it") from error


def save_weights(path: str | Path, network: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write the weights of a network and what its channels mean, whole or not at all.

    Args:
        path: of the file.
        network: the averaged generator.
        facts: names, numbers and lists of them, which `load_weights` compares.

    Raises:
        InputError: it cannot be written.
    """
    model = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    save_state(path, {"model": model, **facts})


def load_weights(network: nn.Module, path: str | Path, facts: Mapping[str, Any], definition: str = "network_def") -> dict[str, Any]:
    """Fill a network with weights and set it to evaluation.

    Args:
        network: filled in place.
        path: of the file.
        facts: that the config has, in the order in which they are compared.
        definition: key of the network in the config, for the message.

    Returns:
        the facts of the file.

    Raises:
        InputError: the file cannot be read, or belongs to another network or other facts.
    """
    model = load_checkpoint(path)
    missing = [key for key in ("model", *facts) if key not in model]
    if missing:
        raise InputError(f"{path}: no trained model (it lacks {', '.join(missing)}); give the model.pt that training writes")
    check_weights(path, model["model"])
    for key, expected in facts.items():
        if model[key] != expected:
            raise InputError(f"{path}: was trained with {key} {model[key]}, but the config has {expected}; correct {key} or give another model")
    weights = model.pop("model")
    for name, module in network.named_modules():
        if hasattr(module, "bring_up"):  # saved by an older version
            module.bring_up(weights, f"{name}." if name else "")
    difference = _first_difference(weights, network.state_dict())
    if difference:
        raise InputError(f"{path}: holds another network than {definition} ({difference}); set {definition} as it was in training")
    spoilt = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if spoilt:
        raise InputError(f"{path}: {spoilt[0]} holds NaN or infinite weights; train again or give another model")
    network.load_state_dict(weights)
    network.eval()
    return model


def check_weights(path: str | Path, weights: Any) -> None:
    """Refuse what a file holds in place of the weights of a network.

    Raises:
        InputError: it is something else than tensors by name.
    """
    if not isinstance(weights, Mapping) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError(f"{path}: holds no weights of a network; give the model.pt or checkpoint.pt that training writes")


def save_model(
    path: str | Path, network: nn.Module, phases: Sequence[str], lr_phases: Sequence[str], lr_voxel_size: Sequence[float] | None = None
) -> None:
    """Write model.pt of a super-resolution: the averaged generator, the names of the HR and of the LR labels in order, its scale factor, with which
    settings it learned that are no weights, and the voxel size (z, y, x) in µm of the scan it learned from, where that is known.

    Raises:
        InputError: it cannot be written.
    """
    names = {"phases": [str(name) for name in phases], "lr_phases": [str(name) for name in lr_phases]}
    learned_with = {name: float(getattr(network, name)) for name in ("noise_std", *FIXED) if hasattr(network, name)}
    size = {} if lr_voxel_size is None else {"lr_voxel_size": [float(edge) for edge in lr_voxel_size]}
    save_weights(path, network, {**names, "scale_factor": int(network.scale_factor), "learned_with": learned_with, **size})


def load_model(
    network: nn.Module, path: str | Path, phases: Sequence[str], lr_phases: Sequence[str], scale_factor: int, output_scale: int | None = None,
    noise_std: float | None = None,
) -> nn.Module:  # fmt: skip
    """Fill a generator with the weights of model.pt and set it to evaluation.

    Args:
        network: the generator that the config defines; filled in place.
        path: of model.pt.
        phases, lr_phases: names of the HR and LR labels that the config has.
        scale_factor: that the config has.
        output_scale: of the level at which the generator stops; None = `scale_factor`.
        noise_std: of the noise that it is to be given; a warning where it learned with another, None does not ask.

    Returns:
        `network`.

    Raises:
        InputError: the file cannot be read, or belongs to another network, other settings of it, other phases or another scale factor; no level has the
            output scale.
    """
    check_network(network.scale_factor, scale_factor)
    facts = load_weights(network, path, {"phases": [*map(str, phases)], "lr_phases": [*map(str, lr_phases)], "scale_factor": scale_factor})
    learned_with = facts.get("learned_with", {})  # older files do not say
    for name in FIXED:
        if name in learned_with and getattr(network, name) != learned_with[name]:
            raise InputError(
                f"{path}: was trained with {name} {learned_with[name]:g}, but network_def has {getattr(network, name):g}; set it as it was in training"
            )
    if noise_std is not None and noise_std != learned_with.get("noise_std", noise_std):
        logger.warning("%s: was trained with noise_std %s, and is given noise of %s", path, learned_with["noise_std"], noise_std)
    if output_scale in (None, scale_factor):
        return network
    if not hasattr(network, "stop_at"):
        raise InputError(f"output_scale: {type(network).__name__} has no levels to stop at; set it to {NULL}")
    return network.stop_at(output_scale)


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
