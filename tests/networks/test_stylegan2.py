"""StyleGAN2 for label maps: every layer against a loop or a library, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bundle.networks import stylegan2
from bundle.networks.style_critic import StyleCritic
from bundle.networks.stylegan2 import MARGIN, StyleGenerator, beyond_bound, probabilities


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tiny(resolution: int = 16, **options) -> StyleGenerator:
    return StyleGenerator(3, resolution, **{"channels": 4, "most_channels": 8, "latent": 6, "mapping_layers": 2, **options})


def made(network: StyleGenerator, ws: torch.Tensor, seed: int = 1) -> torch.Tensor:
    _, noises = network.draw(len(ws), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return network(ws, [noise.to(ws) for noise in noises])


@pytest.mark.parametrize("resolution", [16, 128, 256, 512, 1024])
def test_resolutions_by_config(resolution):
    with torch.device("meta"):
        network, critic = tiny(resolution), StyleCritic(3, resolution, 4, 8)
        ws = network.styles(network.map(torch.empty(2, 6)))
        maps = network(ws, [torch.empty(2, 1, *shape) for shape in network.noise_shapes])
        assert maps.shape == (2, 3, resolution, resolution) and critic(maps).shape == (2,)


@pytest.mark.parametrize("resolution", [4, 20, 100, 2])
def test_other_resolutions_are_refused(resolution):
    with pytest.raises(ValueError, match=f"resolution: {resolution} is not 4 times a power of 2"):
        tiny(resolution)


def test_probabilities_are_a_softmax_of_bounded_logits():
    logits = 30 * torch.randn(2, 3, 4, 4, dtype=torch.float64)
    bounded = 5 * np.tanh(logits.numpy() / 5)
    for temperature in (1.0, 4.0):
        powers = np.exp(bounded / temperature)
        np.testing.assert_allclose(probabilities(logits, temperature).numpy(), powers / powers.sum(1, keepdims=True), rtol=1e-12)


def test_logits_far_beyond_the_bound_are_charged():
    logits = torch.tensor([[3.0, -9.9], [12.0, -14.0]], dtype=torch.float64)[:, :, None, None].requires_grad_(True)  # of two maps of a pixel
    charge = beyond_bound(logits)
    assert float(charge.detach()) == pytest.approx(0.5 * (2.0**2 + 4.0**2) / 2)
    charge.backward()
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([0.0, 0.0, 1.0, -2.0], dtype=torch.float64))


def test_nothing_of_the_zeros_beyond_the_border_is_seen(monkeypatch):
    network = tiny(64)
    ws = network.styles(network.map(torch.randn(2, 6)))
    before, conv = made(network, ws), F.conv2d

    def framed(x, weight, padding=0, stride=1):
        return conv(F.pad(x, (1,) * 4, value=9.0), weight) if padding == 1 and stride == 1 else conv(x, weight, padding=padding, stride=stride)

    monkeypatch.setattr(stylegan2.F, "conv2d", framed)
    assert torch.equal(made(network, ws), before)


def test_a_mixed_style_is_the_other_one_from_the_crossover_on():
    network = tiny()
    w, other = torch.randn(2, 6), torch.randn(2, 6)
    ws = network.styles(w, other, torch.tensor([1, 3]))
    for n, crossover in enumerate((1, 3)):
        for level in range(3):
            assert torch.equal(ws[n, level], (other if level >= crossover else w)[n])


def test_every_level_obeys_its_own_style():
    network = tiny()
    ws = network.styles(network.map(torch.randn(1, 6))).clone()
    before = made(network, ws)
    for level in range(ws.shape[1]):
        changed = ws.clone()
        changed[:, level] = network.map(torch.randn(1, 6))
        assert not torch.equal(made(network, changed), before)


def test_truncation_pulls_to_the_mean_style():
    network = tiny()
    w = network.map(torch.randn(4000, 6))
    for _ in range(20):
        network.follow_mean(w, decay=0.5)
    torch.testing.assert_close(network.mean_style, w.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(network.truncated(w, 0.0), w.mean(0).expand_as(w), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(network.truncated(w, 1.0), w)
    torch.testing.assert_close(network.truncated(w, 0.25) - network.mean_style, 0.25 * (w - network.mean_style))


def test_the_mapping_sees_the_direction_of_a_latent_alone():
    network = tiny()
    z = torch.randn(4, 6)
    torch.testing.assert_close(network.map(z), network.map(7 * z))


def test_the_same_seed_draws_the_same():
    network = tiny()
    first, again = (network.draw(2, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first[0], again[0]) and all(map(torch.equal, first[1], again[1]))
    assert [tuple(noise.shape[2:]) for noise in first[1]] == [(4 + 2 * MARGIN,) * 2] + [(n + 2 * MARGIN,) * 2 for n in (8, 8, 16, 16)]


def test_the_noise_is_felt_at_every_layer():
    network = tiny()
    z, noises = network.draw(1)
    ws = network.styles(network.map(z))
    with torch.no_grad():
        before = network(ws, noises)
        for i in range(len(noises)):
            changed = list(noises)
            changed[i] = torch.randn_like(noises[i])
            assert not torch.equal(network(ws, changed), before)


def test_weights_of_version_0_9_7_are_taken():
    """Their levels were lists of layers: `upper.i`, `lower.i`, and `heads.0` of the constant before those of the levels."""
    torch.manual_seed(0)
    network = StyleGenerator(2, 16, channels=4, most_channels=8, latent=6, mapping_layers=1)
    before = {}
    for key, value in network.state_dict().items():
        parts = key.split(".")
        if parts[0] == "levels":
            kind = {"head": f"heads.{int(parts[1]) + 1}"}.get(parts[2], f"{parts[2]}.{parts[1]}")
            key = ".".join([kind, *parts[3:]])
        elif parts[0] == "head":
            key = ".".join(["heads.0", *parts[1:]])
        before[key] = value.clone()
    assert "upper.1.conv.weight" in before and "heads.2.style.bias" in before and "lower.0.noise" in before
    other = StyleGenerator(2, 16, channels=4, most_channels=8, latent=6, mapping_layers=1)
    other.load_state_dict(before)
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in other.state_dict().items())
