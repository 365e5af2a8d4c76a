"""R1 and path length: values and gradients against finite differences in float64."""

from __future__ import annotations

import torch
from torch import nn

from bundle.losses.adversarial import LogisticLoss
from bundle.losses.path_length import PathLength, path_lengths
from bundle.networks.style_critic import StyleCritic
from bundle.networks.stylegan2 import StyleGenerator

STEP = 1e-5


def slope(value, tensor: torch.Tensor, index: tuple) -> float:
    """Central difference of value() by an element of a tensor."""
    tensor[index] += STEP
    above = float(value())
    tensor[index] -= 2 * STEP
    below = float(value())
    tensor[index] += STEP
    return (above - below) / (2 * STEP)


def checked(value, module: nn.Module, names: list[str]) -> None:
    """The gradients of value() by an element of each named parameter are its slopes."""
    module.zero_grad()
    value().backward()
    parameters = dict(module.named_parameters())
    for name in names:
        parameter = parameters[name]
        index = tuple(size // 2 for size in parameter.shape)
        found, wanted = float(parameter.grad[index]), slope(lambda: value().detach(), parameter.data, index)
        assert abs(wanted) > 1e-9 and abs(found - wanted) < 1e-5 * abs(wanted) + 1e-9, (name, found, wanted)


def test_r1_is_the_mean_squared_slope_of_the_score():
    torch.manual_seed(0)
    critic = StyleCritic(2, 8, 3, 4, group=1).double()  # a group of one: a score is of its map alone
    maps = torch.rand(2, 2, 8, 8, dtype=torch.float64)
    found = float(LogisticLoss().penalty(critic, maps))
    slopes = torch.zeros_like(maps)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in maps.shape)).tolist():
        slopes[tuple(index)] = slope(lambda: critic(maps).detach().sum(), maps, tuple(index))
    assert abs(found - float(slopes.square().sum((1, 2, 3)).mean())) < 1e-6 * found


def test_the_gradient_of_r1():
    torch.manual_seed(1)
    critic = StyleCritic(2, 8, 3, 4).double()
    maps = torch.rand(4, 2, 8, 8, dtype=torch.float64)
    checked(lambda: LogisticLoss().penalty(critic, maps), critic, ["levels.0.stem.weight", "levels.0.halve.weight", "levels.0.skip.weight", "last.weight", "score.weight"])


def generator() -> tuple[StyleGenerator, torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(2)
    network = StyleGenerator(3, 8, channels=3, most_channels=4, latent=5, mapping_layers=1).double()
    ws = torch.randn(2, 2, 5, dtype=torch.float64)
    return network, ws, [torch.randn(2, 1, *shape, dtype=torch.float64) for shape in network.noise_shapes]


def test_path_lengths_are_norms_of_the_jacobian_in_a_direction():
    network, ws, noises = generator()
    direction = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with_gradient = ws.clone().requires_grad_(True)
    found = path_lengths(network(with_gradient, noises), with_gradient, direction)
    jacobian = torch.zeros_like(ws)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in ws.shape)).tolist():
        jacobian[tuple(index)] = slope(lambda: (network(ws, noises).detach() * direction).sum() / 8, ws, tuple(index))
    torch.testing.assert_close(found.detach(), jacobian.square().sum(2).mean(1).sqrt(), rtol=1e-6, atol=1e-10)


def test_the_gradient_of_the_path_length():
    network, ws, noises = generator()

    def value() -> torch.Tensor:
        with_gradient = ws.clone().requires_grad_(True)
        regulariser = PathLength()
        regulariser.mean, regulariser.decay = 0.05, 0.0
        torch.manual_seed(3)
        return regulariser(network(with_gradient, noises), with_gradient)

    checked(value, network, ["constant", "first.conv.weight", "levels.0.upper.conv.style.weight", "levels.0.lower.noise", "levels.0.head.weight"])


def test_the_running_mean_of_the_path_length():
    ws = torch.ones(2, 1, 1, requires_grad=True)
    regulariser = PathLength(decay=0.25)
    mean = 0.0
    for seed, factor in enumerate((2.0, 6.0)):
        torch.manual_seed(seed)
        noise = torch.randn(2, 1, 1, 1)
        length = factor * noise.abs().flatten()
        mean += 0.25 * (float(length.mean()) - mean)
        torch.manual_seed(seed)
        found = regulariser(factor * ws[..., None], ws)
        torch.testing.assert_close(found.detach(), (length - mean).square().mean())
    again = PathLength()
    again.load_state_dict(regulariser.state_dict())
    assert again.mean == regulariser.mean


def test_the_logistic_losses():
    scores = {"real": torch.tensor([0.5, -1.0]), "fake": torch.tensor([2.0, 0.1])}
    loss = LogisticLoss()
    found = loss.critic_loss(lambda maps: scores[maps], "real", "fake")
    torch.testing.assert_close(found, -(scores["real"].sigmoid().log().mean() + (1 - scores["fake"].sigmoid()).log().mean()))
    torch.testing.assert_close(loss.generator_loss(lambda maps: scores[maps], "real", "fake"), -scores["fake"].sigmoid().log().mean())
