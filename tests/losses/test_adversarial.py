"""The adversarial losses against closed forms and finite differences, in float64."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from bundle.losses.adversarial import RelativisticLoss, WassersteinLoss

SHAPE = (2, 3, 4)


class Linear(nn.Module):
    """score = <w, slice>: the gradient is w everywhere."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight * x).sum(dim=(1, 2, 3))


class Quadratic(nn.Module):
    """score = a/2 |slice|^2: the gradient is a x slice, its norm a |slice|."""

    def __init__(self, a: float = 1.0):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.a / 2 * x.square().sum(dim=(1, 2, 3))


def draw(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def square_norm(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(1)


def smooth_critic() -> nn.Module:
    """A critic whose second derivatives exist everywhere."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Softplus(), nn.Conv2d(3, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 1), nn.Flatten(0))
    return layers.double()


@pytest.mark.parametrize("penalty", [0.0, 10.0, 3.0])
def test_wasserstein_of_a_linear_critic(penalty):
    critic = Linear(draw(1, 3)[0])
    real, fake = draw(5, 1), draw(5, 2)
    loss = WassersteinLoss(penalty).critic_loss(critic, real, fake)
    expected = (critic(fake) - critic(real)).mean() + penalty * (critic.weight.norm() - 1) ** 2
    torch.testing.assert_close(loss, expected)


def test_the_default_penalty_is_the_published_one():
    assert WassersteinLoss().penalty == 10 and not WassersteinLoss().rms


def test_root_mean_square_distance():
    """The critic that scores a slice by its distance to the origin, as root mean square over the pixels, has slope 1: no penalty."""

    class Distance(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square().sum(1).mean(dim=(1, 2)).sqrt()

    x = draw(3)
    assert WassersteinLoss(rms=True).critic_loss(Distance(), x, x.clone()).item() == pytest.approx(0, abs=1e-12)
    # by the sum over the 3 x 4 pixels the same slope is 1 / sqrt(12)
    assert WassersteinLoss().critic_loss(Distance(), x, x.clone()).item() == pytest.approx(10 * (12**-0.5 - 1) ** 2)


def test_the_penalty_is_a_slice_s_own():
    """real = fake, so every interpolate is that slice and only the penalty is left: 10 mean (|x_n| - 1)^2."""
    x = draw(4) * torch.tensor([0.1, 1, 2, 5]).double().view(4, 1, 1, 1)
    loss = WassersteinLoss().critic_loss(Quadratic(), x, x.clone())
    torch.testing.assert_close(loss, 10 * (square_norm(x).sqrt() - 1).square().mean(), rtol=1e-9, atol=0)


def test_interpolates_lie_between_the_pairs():
    """Each on the line between its real and its fake, at a place of its own, spread over the whole line."""
    seen: list[Tensor] = []

    class Recording(Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return super().forward(x)

    n = 400
    real, fake = draw(n, 1), draw(n + 30, 2)  # the pairs are those of the shorter set
    WassersteinLoss().critic_loss(Recording(draw(1, 3)[0]), real, fake)
    (between,) = [x for x in seen if not torch.equal(x, real) and not torch.equal(x, fake)]
    assert len(between) == n
    t = (between - fake[:n]) / (real - fake[:n])
    place = t.flatten(1).median(1).values
    torch.testing.assert_close(between, torch.lerp(fake[:n], real, place.view(n, 1, 1, 1)))
    assert 0 <= place.min() < 0.05 and 0.95 < place.max() <= 1
    assert abs(place.mean() - 0.5) < 0.06 and place.unique().numel() > n / 2


def test_all_scores_count_where_the_sets_differ_in_length():
    critic = Linear(torch.zeros(SHAPE).double() + 0.3)
    real, fake = draw(2, 1), draw(7, 2)
    loss = WassersteinLoss(0.0).critic_loss(critic, real, fake)
    torch.testing.assert_close(loss, critic(fake).mean() - critic(real).mean())


@pytest.mark.parametrize("loss", [WassersteinLoss(10.0), RelativisticLoss(0.7, 1.3)], ids=["wasserstein", "relativistic"])
def test_critic_gradients_by_finite_differences(loss):
    """Through the penalties too, that is second derivatives of the critic; torch's gradcheck compares with differences."""
    critic, real, fake = smooth_critic(), draw(3, 1), draw(3, 2)
    names, values = zip(*critic.named_parameters())

    def value(*parameters: Tensor) -> Tensor:
        torch.manual_seed(1)  # the same interpolates
        return loss.critic_loss(lambda x: functional_call(critic, dict(zip(names, parameters)), (x,)), real, fake)

    assert torch.autograd.gradcheck(value, values, fast_mode=True)


@pytest.mark.parametrize("loss", [WassersteinLoss(), RelativisticLoss()], ids=["wasserstein", "relativistic"])
def test_generator_gradients_by_finite_differences(loss):
    critic, real = smooth_critic(), draw(3, 1)
    assert torch.autograd.gradcheck(lambda fake: loss.generator_loss(critic, real, fake), draw(3, 2).requires_grad_(True), fast_mode=True)


@pytest.mark.parametrize("loss", [WassersteinLoss(), RelativisticLoss()], ids=["wasserstein", "relativistic"])
def test_signs(loss):
    """A step of the generator raises the score of its slices; one of the critic the lead of the reals."""
    critic, real, fake = smooth_critic(), draw(6, 1), draw(6, 2).requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss.generator_loss(critic, real, fake), fake)
    assert critic(fake - 0.01 * gradient).mean() > critic(fake).mean()

    without_penalty = WassersteinLoss(0.0) if isinstance(loss, WassersteinLoss) else RelativisticLoss(0.0, 0.0)
    fake = fake.detach()
    lead = (critic(real) - critic(fake)).mean().item()
    optimizer = torch.optim.SGD(critic.parameters(), 0.05)
    without_penalty.critic_loss(critic, real, fake).backward()
    optimizer.step()
    assert (critic(real) - critic(fake)).mean().item() > lead


def test_wasserstein_generator_loss():
    critic, fake = Linear(draw(1, 3)[0]), draw(4)
    torch.testing.assert_close(WassersteinLoss().generator_loss(critic, draw(2), fake), -critic(fake).mean())


@pytest.mark.parametrize(("r1", "r2"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (2.0, 5.0)])
def test_relativistic_of_a_quadratic_critic(r1, r2):
    """Loss and its derivative with respect to a, in closed form; slices beyond the shorter set left out."""
    a = 0.7
    critic = Quadratic(a)
    real, fake = draw(3, 1) * 2, draw(5, 2)
    loss = RelativisticLoss(r1, r2).critic_loss(critic, real, fake)
    nr, nf = square_norm(real), square_norm(fake[:3])
    margin = a / 2 * (nf - nr)
    expected = (1 + margin.exp()).log().mean() + 0.5 * a**2 * (r1 * nr.mean() + r2 * nf.mean())
    torch.testing.assert_close(loss, expected)
    loss.backward()
    slope = (torch.sigmoid(margin) * (nf - nr) / 2).mean() + a * (r1 * nr.mean() + r2 * nf.mean())
    torch.testing.assert_close(critic.a.grad, slope)


def test_relativistic_generator_loss_is_the_mirror():
    critic, real, fake = Quadratic(0.7), draw(3, 1), draw(5, 2)
    expected = (1 + (critic(real) - critic(fake[:3])).exp()).log().mean()
    torch.testing.assert_close(RelativisticLoss().generator_loss(critic, real, fake), expected)
    assert not torch.allclose(RelativisticLoss().generator_loss(critic, real.flip(0), fake), expected)  # pairs, not means


@pytest.mark.parametrize("loss", [WassersteinLoss(), RelativisticLoss()], ids=["wasserstein", "relativistic"])
def test_float32_slices_and_their_graph(loss):
    """What the trainer passes: the penalty sends nothing back into the slices it is taken at."""
    critic = smooth_critic().float()
    real, fake = draw(4, 1).float(), draw(4, 2).float().requires_grad_(True)
    value = loss.critic_loss(critic, real, fake)
    assert value.dtype == torch.float32 and value.shape == ()
    (with_penalty,) = torch.autograd.grad(value, fake)
    if isinstance(loss, WassersteinLoss):
        score = critic(fake).mean()
    else:
        score = F.softplus(critic(fake) - critic(real)).mean()
    torch.testing.assert_close(with_penalty, torch.autograd.grad(score, fake)[0])
