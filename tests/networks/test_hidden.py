"""Phases that an LR label hides: how much of them, where they turn, and that a model remembers it."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from bundle.errors import InputError
from bundle.fine_tuning import warm_start
from bundle.networks.generator import LevelGenerator
from bundle.networks.hidden import MOST, HiddenPhases, corrected_fractions, hidden_shares, hiding
from bundle.networks.paper import PaperGenerator

NAMES = ["pore", "quartz", "feldspar", "clay"]
NOTHING = [[0.0, 0.0], [0.0, 0.0]]
SOME = [[0.0, 0.3, 0.0], [0.0, 0.0, 0.0]]


def onehot(labels: Tensor, n_labels: int) -> Tensor:
    """(B, D, H, W) -> (B, labels, D, H, W) float32."""
    return F.one_hot(labels, n_labels).movedim(-1, 1).float()


def white(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def phases_by_loops(labels: np.ndarray, noise: np.ndarray, shares: list[list[float]], n_phases: int, radius: int) -> np.ndarray:
    """(d, h, w) labels and (d + 2 radius, …) noise -> (phases, d, h, w), float64: the documented field, a voxel at a time."""
    axis = np.arange(-radius, radius + 1) / (radius / 2)
    bell = np.exp(-0.5 * (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2))
    bell /= np.sqrt((bell**2).sum())
    result = np.zeros((n_phases, *labels.shape))
    for place in np.ndindex(labels.shape):
        label = labels[place]
        field = (noise[tuple(slice(p, p + 2 * radius + 1) for p in place)] * bell).sum()
        turned = 0.0
        for phase, share in enumerate(shares[label]):
            if share > 0:
                turned = float(np.clip(0.5 + 2.5 * (field - NormalDist().inv_cdf(1 - share)), 0, 1))
                result[phase][place] += turned
        result[label][place] += 1 - turned
    return result


# --- How much ------------------------------------------------------------------------------------------------------------------------


def test_as_much_returns_as_the_images_hold_more():
    """Quartz 0.6 hides 0.09 of feldspar, which is 0.15 of it; of clay the LR has more than the images."""
    lr, hr = [0.2, 0.6, 0.05, 0.15], [0.18, 0.56, 0.14, 0.12]
    shares = hidden_shares(NAMES, {"quartz": "feldspar", "pore": "clay"}, lr, hr)
    expected = np.zeros((4, 4))
    expected[1, 2] = 0.15
    np.testing.assert_allclose(shares, expected, rtol=1e-12)
    assert corrected_fractions(lr, shares) == pytest.approx([0.2, 0.51, 0.14, 0.15])


def test_corrected_fractions_are_those_of_the_images():
    """Whatever the rock, as long as no more than half of a label turns; two labels may hide a phase each."""
    draw = np.random.default_rng(0)
    turned = 0
    for _ in range(50):
        lr, hr = (draw.dirichlet(np.full(4, 8.0)) for _ in range(2))
        shares = np.array(hidden_shares(NAMES, {"quartz": "feldspar", "clay": "pore"}, lr, hr))
        found = corrected_fractions(lr, shares)
        assert sum(found) == pytest.approx(1)
        for label, phase in ((1, 2), (3, 0)):
            assert found[phase] == pytest.approx(max(lr[phase], hr[phase])) or shares[label, phase] == MOST
            assert found[label] == pytest.approx(lr[label] - (found[phase] - lr[phase]))
            turned += 0 < shares[label, phase] < MOST
            shares[label, phase] = 0
        assert (shares == 0).all()
    assert turned > 20


def test_labels_that_hide_the_same_phase_give_the_same_share_of_themselves():
    """0.12 of feldspar is missing, and 0.6 of the rock may hide it: a fifth of each, and no more in all than is missing."""
    lr, hr = [0.2, 0.4, 0.02, 0.38], [0.1, 0.4, 0.14, 0.36]
    shares = hidden_shares(NAMES, {"pore": "feldspar", "quartz": "feldspar", "feldspar": "feldspar"}, lr, hr)
    np.testing.assert_allclose(shares, [[0, 0, 0.2, 0], [0, 0, 0.2, 0], [0, 0, 0, 0], [0, 0, 0, 0]], rtol=1e-12)
    assert corrected_fractions(lr, shares) == pytest.approx([0.16, 0.32, 0.14, 0.38])


def test_never_more_than_half_of_a_label():
    shares = hidden_shares(NAMES, {"quartz": "feldspar"}, [0.5, 0.1, 0.0, 0.4], [0.1, 0.1, 0.7, 0.1])
    assert shares[1][2] == MOST == 0.5
    assert corrected_fractions([0.5, 0.1, 0.0, 0.4], shares) == pytest.approx([0.5, 0.05, 0.05, 0.4])
    assert hidden_shares(NAMES, {"quartz": "feldspar"}, [0.5, 0.0, 0.1, 0.4], [0.1, 0.1, 0.7, 0.1])[1][2] == MOST  # of nothing


def test_names_that_are_no_labels_are_left_out():
    """So a table serves several rocks; the HR may know more phases than the LR."""
    lr, hr = [0.9, 0.1], [0.5, 0.2, 0.2, 0.1]
    for hidden in ({}, {"pore": "feldspar"}, {"clay": "quartz"}, {"mica": "quartz"}, {"quartz": "quartz"}):
        assert hidden_shares(NAMES[:2], hidden, lr, hr) == NOTHING, hidden
    assert hidden_shares(NAMES[:2], {"pore": "quartz", "clay": "pore"}, lr, hr) == [[0.0, pytest.approx(0.1 / 0.9)], [0.0, 0.0]]


def test_fractions_of_a_matrix_of_shares():
    """By hand: 0.1 of label 0 and 0.3 of label 1 turn into label 2, 0.2 of label 2 into label 0."""
    shares = [[0.0, 0.0, 0.1], [0.0, 0.0, 0.3], [0.2, 0.0, 0.0]]
    assert corrected_fractions([0.5, 0.3, 0.2], shares) == pytest.approx([0.5 - 0.05 + 0.04, 0.3 - 0.09, 0.2 + 0.05 + 0.09 - 0.04])


# --- Where ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [1, 3])
def test_phases_are_those_of_loops(radius):
    """Of three labels one hides the second, one a phase that the LR does not know."""
    shares = [[0.0, 0.45, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.2]]
    layer = HiddenPhases(3, 4, radius)
    layer.hide(shares)
    labels = torch.randint(0, 3, (2, 5, 6, 7), generator=torch.Generator().manual_seed(0))
    noise = 2 * white(1, 2, 1, *(n + 2 * radius for n in (5, 6, 7)))  # so that some turn for sure
    found = layer(onehot(labels, 3), noise)
    for item in range(2):
        expected = phases_by_loops(labels[item].numpy(), noise[item, 0].double().numpy(), shares, 4, radius)
        np.testing.assert_allclose(found[item].numpy(), expected, atol=1e-4)
        for label, phase in ((0, 1), (2, 3)):  # surely, hardly and not at all
            values = expected[phase][labels[item].numpy() == label]
            assert values.min() == 0 and values.max() == 1 and ((values > 0) & (values < 1)).any()
        assert (found[item, 1][labels[item] == 1] == 1).all()  # hides nothing
    torch.testing.assert_close(found.sum(1), torch.ones(2, 5, 6, 7))


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_share_of_a_uniform_volume_that_turns(share):
    """Independent grains are about (2 pi radius^2 / 2)^(3/2) voxels large (the integral of the field's correlation), which bounds the
    deviation of the share; four of them are allowed."""
    radius, edge = 4, 96
    layer = HiddenPhases(2, 2, radius)
    layer.hide([[0.0, share], [0.0, 0.0]])
    labels = torch.zeros(1, edge, edge, edge, dtype=torch.long)
    turned = layer(onehot(labels, 2), white(3, 1, 1, *[edge + 2 * radius] * 3)).argmax(1).double()
    independent = edge**3 / (np.pi * radius**2) ** 1.5
    deviation = (share * (1 - share) / independent) ** 0.5
    assert deviation < 0.011
    assert turned.mean().item() == pytest.approx(share, abs=4 * deviation)
    # in grains: far more often than by chance is the neighbour of a turned voxel turned, too
    assert (turned[:, 1:] * turned[:, :-1]).sum() / turned[:, 1:].sum() > 0.7


def test_nothing_hidden_is_nothing_changed():
    """However high the field, the labels stay, and a phase that the LR does not know is nowhere."""
    labels = torch.randint(0, 2, (1, 4, 5, 6))
    for shares in (None, NOTHING):
        layer = HiddenPhases(2, 3, 2)
        if shares:
            layer.hide(shares)
        found = layer(onehot(labels, 2), 50 * white(0, 1, 1, 8, 9, 10))
        assert torch.equal(found, F.pad(onehot(labels, 2), [0, 0] * 3 + [0, 1]))


def test_two_phases_for_a_label_are_refused():
    layer = HiddenPhases(2, 3, 1)
    with pytest.raises(ValueError, match="LR label 1 hides more than one phase"):
        layer.hide([[0.0, 0.2, 0.0], [0.1, 0.0, 0.2]])


# --- In a generator --------------------------------------------------------------------------------------------------------------------


def generator(shares: list[list[float]] | None = SOME) -> LevelGenerator:
    torch.manual_seed(0)
    net = LevelGenerator(3, 3, (4, 4, 4), blocks=0, grain_radius=2).eval().requires_grad_(False)
    return hiding(net, shares) if shares else net


def image(edge: int, seed: int = 5) -> Tensor:
    labels = torch.randint(0, 2, (1, edge, edge, edge), generator=torch.Generator().manual_seed(seed))
    return torch.cat([onehot(labels, 2), white(seed, 1, 1, edge, edge, edge)], 1)


def noise_of(net: LevelGenerator, size: list[int]) -> list[Tensor]:
    return [white(k, 1, 1, *shape) for k, (_, _, shape) in enumerate(net.noise_windows(size))]


def test_hiding_is_told_to_the_generator():
    net = generator(None)
    assert hiding(net, SOME) is net
    turned = (net.corrected(image(16)) != image(16)[:, :2])[:, 0].float().sum() / image(16)[:, 0, 2:-2, 2:-2, 2:-2].sum()
    assert 0.15 < turned < 0.45


def test_saved_weights_know_what_is_hidden(tmp_path):
    net, fresh = generator(), generator(None)
    assert not torch.equal(fresh.corrected(image(14)), net.corrected(image(14)))
    torch.save(net.state_dict(), tmp_path / "state.pt")
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(fresh.corrected(image(14)), net.corrected(image(14)))
    part, noise = image(2 * net.halo + 2), noise_of(net, [2, 2, 2])
    assert torch.equal(fresh.forward_window(part, noise), net.forward_window(part, noise))


def test_torchscript_equals_eager():
    net = generator()
    scripted = torch.jit.script(net)
    part, noise = image(2 * net.halo + 2), noise_of(net, [2, 2, 2])
    expected = net.forward_window(part, noise)
    assert not torch.equal(generator(None).forward_window(part, noise), expected)  # something is hidden there
    torch.testing.assert_close(scripted.forward_window(part, noise), expected)


def test_windows_agree_with_the_whole():
    """Any voxel's phases need the noise within the halo alone, so that windows cut anywhere agree."""
    net = generator()
    size, h, s = 5, net.halo, net.scale_factor
    volume, noise = image(size + 2 * h), noise_of(net, [size] * 3)
    whole = net.forward_window(volume, noise)
    for z, y, x in ((0, 0, 0), (1, 2, 0), (3, 3, 3)):
        part = volume[:, :, z : z + 2 + 2 * h, y : y + 2 + 2 * h, x : x + 2 + 2 * h]
        parts = []
        for drawn, (scale, _, (n, _, _)) in zip(noise, net.noise_windows([2, 2, 2])):
            a, b, c = (scale * start for start in (z, y, x))
            parts.append(drawn[:, :, a : a + n, b : b + n, c : c + n])
        expected = whole[:, :, s * z : s * (z + 2), s * y : s * (y + 2), s * x : s * (x + 2)]
        torch.testing.assert_close(net.forward_window(part, parts), expected, rtol=0, atol=1e-5)


def test_a_generator_that_cannot_bring_phases_back():
    paper = PaperGenerator(3, 3, width=16)
    assert hiding(paper, NOTHING) is paper
    with pytest.raises(InputError, match="PaperGenerator cannot bring phases back; set hidden to null"):
        hiding(paper, SOME)


def test_gradients_pass():
    """To the weights behind the phases, and by the noise to where a grain ends."""
    net = generator().requires_grad_(True)
    given = image(net.patch_edge([4, 2])).requires_grad_(True)
    sum(p[:, 0].sum() for _, p, _ in net.forward_training(given, [4, 2])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.trunk[0].weight.grad[:, 3:6].abs().sum() > 0  # of the phases: after two labels and noise
    layer = HiddenPhases(1, 2, 1)
    layer.hide([[0.0, 0.4]])
    noise = white(0, 1, 1, 6, 6, 6).requires_grad_(True)
    layer(torch.ones(1, 1, 4, 4, 4), noise)[:, 1].sum().backward()
    assert noise.grad.abs().sum() > 0


def test_hiding_anew_forgets_what_was_hidden():
    phases = HiddenPhases(2, 2, 1)
    phases.hide([[0.0, 0.3], [0.0, 0.0]])
    phases.hide([[0.0, 0.0], [0.4, 0.0]])
    fresh = HiddenPhases(2, 2, 1)
    fresh.hide([[0.0, 0.0], [0.4, 0.0]])
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in phases.state_dict().items())


def test_fine_tuning_keeps_the_hidden_shares_of_the_new_rock(tmp_path):
    """Weights come from the checkpoint, thresholds from the configuration."""

    class Engine:
        def __init__(self, share: float, seed: int):
            torch.manual_seed(seed)
            network = hiding(LevelGenerator(3, 2, channels=(3, 2), blocks=1, grain_radius=1), [[0.0, share], [0.0, 0.0]])
            self.state = {"network": network, "ema": AveragedModel(network), "critics": torch.nn.ModuleDict()}

        def parts(self):
            return self.state

    old, new = Engine(0.4, 0), Engine(0.1, 1)
    torch.save({name: part.state_dict() for name, part in old.parts().items()}, tmp_path / "checkpoint.pt")
    warm_start(new, tmp_path / "checkpoint.pt")
    for part in (new.parts()["network"], new.parts()["ema"].module):
        assert torch.equal(part.trunk[0].weight, old.parts()["network"].trunk[0].weight)
        assert part.hidden.threshold[0].item() == pytest.approx(NormalDist().inv_cdf(0.9))
