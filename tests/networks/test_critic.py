"""The critics: layers, size, and a score for each slice by itself."""

import pytest
import torch
from torch import nn

from bundle.networks.critic import PaperCritic, SliceCritic, make_critics


def conv_parameters(a: int, b: int, kernel: int) -> int:
    return a * b * kernel**2 + b


def test_paper_critic_layers():
    layers = list(PaperCritic(4).layers)
    widths = [4, 16, 32, 64, 128, 256, 512]
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.ReLU] * 6 + [nn.Conv2d]
    convolutions = layers[::2]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [*zip(widths, widths[1:]), (512, 1)]
    assert [(c.kernel_size, c.stride, c.padding) for c in convolutions] == [((4, 4), (2, 2), (1, 1))] * 6 + [((3, 3), (2, 2), (0, 0))]


@pytest.mark.parametrize("phases", [2, 4])
def test_parameter_counts(phases):
    widths = [phases, 16, 32, 64, 128, 256, 512]
    expected = sum(conv_parameters(a, b, 4) for a, b in zip(widths, widths[1:])) + conv_parameters(512, 1, 3)
    assert sum(p.numel() for p in PaperCritic(phases).parameters()) == expected
    widths = [6, 10, 14]
    expected = conv_parameters(phases, 6, 3) + conv_parameters(6, 10, 4) + conv_parameters(10, 14, 4) + conv_parameters(14, 14, 3)
    assert sum(p.numel() for p in SliceCritic(phases, widths).parameters()) == expected + conv_parameters(14, 1, 1)


def test_paper_critic_scores_the_published_crop():
    assert PaperCritic(4)(torch.rand(2, 4, 240, 240)).shape == (2,)


def test_small_slices_need_the_small_last_kernel():
    slices = torch.rand(3, 2, 64, 64)
    with pytest.raises(RuntimeError):
        PaperCritic(2)(slices)
    with pytest.raises(RuntimeError):
        PaperCritic(2)(torch.rand(1, 2, 191, 191))
    assert PaperCritic(2)(torch.rand(1, 2, 192, 192)).shape == (1,)
    assert PaperCritic(2, last_kernel=1)(slices).shape == (3,)


@pytest.mark.parametrize("critic", [SliceCritic(3, (4, 5, 6, 7)), PaperCritic(3, last_kernel=1)], ids=["slice", "paper"])
def test_a_score_depends_on_its_slice_alone(critic):
    torch.manual_seed(0)
    slices = torch.rand(4, 3, 64, 72)
    scores = critic(slices)
    assert scores.shape == (4,)
    torch.testing.assert_close(scores, torch.cat([critic(s[None]) for s in slices]))
    assert scores.unique().numel() == 4


@pytest.mark.parametrize("critic", [SliceCritic(3, (4, 5, 6, 7)), PaperCritic(3)], ids=["slice", "paper"])
def test_the_score_is_the_mean_of_the_map(critic):
    slices = torch.rand(2, 3, 384, 384)
    scores = critic.layers(slices)
    assert scores.shape[1] == 1 and scores[0].numel() > 1
    torch.testing.assert_close(critic(slices), torch.stack([s.sum() / s.numel() for s in scores]))


def test_one_critic_for_each_group_and_scale():
    critics = make_critics(["xy", "xz"], iter([2, 8]), lambda: SliceCritic(2, (3, 4)))
    assert isinstance(critics, nn.ModuleDict)
    assert set(critics) == {"xy_2x", "xy_8x", "xz_2x", "xz_8x"}
    assert len({id(p) for p in critics.parameters()}) == 4 * len(list(SliceCritic(2, (3, 4)).parameters()))  # nothing shared
