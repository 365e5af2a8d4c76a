"""What is done to a generator before it is used: frozen, compiled, told what its labels hide."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from bundle.errors import InputError
from bundle.networks.paper import PaperGenerator
from bundle.networks.prepared import compiled, frozen, hiding
from tests.networks.test_generator import make, volume
from tests.networks.test_hidden import NOTHING, SOME, generator, image


def test_hiding_is_told_to_the_generator():
    net = generator(None)
    labelled = image(30)
    assert hiding(net, SOME, labelled[0, :-1].argmax(0).numpy()) is net and net.hidden.evidence[0].min() > 0
    turned = (net.corrected(labelled) != labelled[:, :2])[:, 0].float().sum() / labelled[:, 0, 5:-5, 5:-5, 5:-5].sum()
    assert 0.2 < turned < 0.4


def test_a_generator_that_cannot_bring_phases_back():
    paper = PaperGenerator(3, 3, width=16)
    nothing_known = np.zeros((1, 1, 1), np.uint8)
    assert hiding(paper, NOTHING, nothing_known) is paper
    with pytest.raises(InputError, match="PaperGenerator cannot bring phases back; set hidden and rims to {}"):
        hiding(paper, SOME, nothing_known)


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_frozen_levels_get_no_gradient_and_the_others_the_same(levels):
    gradients = []
    for n in (0, levels):
        net = frozen(make().requires_grad_(True), n)
        torch.manual_seed(3)
        patch = volume(9, *[net.patch_edge([6, 4, 2])] * 3)
        sum(p.square().mean() for _, p, _ in net.forward_training(patch, [6, 4, 2])).backward()
        gradients.append({name: parameter.grad for name, parameter in net.named_parameters()})
    for name, gradient in gradients[1].items():
        if levels and (name.startswith("trunk") or any(name.startswith(f"levels.{k}.") for k in range(levels))):
            assert gradient is None, name
        else:
            torch.testing.assert_close(gradient, gradients[0][name], rtol=0, atol=0)


@pytest.mark.parametrize("levels", [-1, 3, 1.5, "1"])
def test_levels_that_cannot_be_frozen(levels):
    with pytest.raises(InputError, match="frozen_levels: .* of the 3 levels of LevelGenerator"):
        frozen(make(), levels)


def test_a_generator_without_levels_cannot_be_frozen():
    with pytest.raises(InputError, match="frozen_levels: 1 of the 0 levels of PaperGenerator"):
        frozen(PaperGenerator(3, 2, 16), 1)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler on a processor")
def test_compiled_it_makes_and_learns_the_same():
    """Volumes, gradients and the averaged copy within rounding; the weights keep their names."""
    found = []
    for wanted in (False, "true"):
        net = compiled(make((4, 3), blocks=0).requires_grad_(True), wanted)
        assert (net.levels[0]._compiled_call_impl is None) == (wanted is False)
        torch.manual_seed(3)
        ((_, made, _),) = net.forward_training(volume(9, *[net.patch_edge([4])] * 3), [4])
        made.square().mean().backward()
        copied = AveragedModel(net).module.state_dict()
        found.append(({name: p.grad for name, p in net.named_parameters()}, made.detach(), copied))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_compiled_is_on_or_off():
    with pytest.raises(InputError, match="compile: yes is neither true nor false"):
        compiled(make(), "yes")


def test_nothing_is_frozen_as_chance_gave_it():
    with pytest.raises(InputError, match="frozen_levels: 1 would keep the weights as chance gave them; set start_from"):
        frozen(make(), 1, started=False)
    assert frozen(make(), 0, started=False) is not None
