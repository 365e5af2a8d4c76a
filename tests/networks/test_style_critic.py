"""The critic of label maps."""

import numpy as np
import pytest
import torch

from bundle.networks.style_critic import StyleCritic, minibatch_spread


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(("number", "group"), [(8, 4), (6, 4)])
def test_minibatch_spread(number, group):
    x = torch.randn(number, 3, 2, 2, dtype=torch.float64)
    found = minibatch_spread(x, group)
    assert found.shape == (number, 1, 2, 2)
    size = group if number % group == 0 else number
    for n in range(number):
        members = [x[m].numpy() for m in range(number) if m % (number // size) == n % (number // size)]
        assert len(members) == size
        np.testing.assert_allclose(found[n].numpy(), np.sqrt(np.var(members, axis=0) + 1e-8).mean(), rtol=1e-6)


def test_the_critic_tells_a_batch_of_copies_from_a_various_one():
    critic = StyleCritic(3, 16, 4, 8).double()
    maps = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    alone, copies = critic(maps)[0], critic(maps[:1].expand(4, -1, -1, -1))[0]
    assert not torch.isclose(alone, copies)
