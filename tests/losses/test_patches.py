"""The patch distance against brute force and closed forms, in float64."""

from itertools import permutations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bundle.losses.patches import SlicedWasserstein, contacts, transport


def constant(phases: list[int], edge: int = 20, number: int = 3) -> Tensor:
    """One-hot slices, each of a single phase: (len(phases), number, edge, edge)."""
    onehot = F.one_hot(torch.tensor(phases), number).double()
    return onehot[:, :, None, None].expand(-1, -1, edge, edge).clone()


def distance(fake: Tensor, earlier: Tensor, real: Tensor, **options) -> Tensor:
    torch.manual_seed(0)
    values = {"patch": 5, "projections": 2000, "pyramid": [1], "contact_weight": 0.0, **options}
    return SlicedWasserstein(**values)(fake.float(), earlier.float(), real.float()).double()


def test_transport_is_the_cheapest_assignment():
    draw = torch.Generator().manual_seed(1)
    for _ in range(20):
        values, target = (torch.randn(1, 6, generator=draw, dtype=torch.float64) for _ in range(2))
        best = min(permutations(range(6)), key=lambda order: (values[0] - target[0, list(order)]).square().sum().item())
        assert torch.equal(transport(values, target)[0], target[0, list(best)])


def test_contacts_count_the_faces_between_two_phases():
    draw = torch.Generator().manual_seed(2)
    labels = torch.randint(4, (2, 6, 5), generator=draw)
    found = contacts(F.one_hot(labels, 4).movedim(-1, 1).double())
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    expected = torch.zeros(2, 6, 5, 4, dtype=torch.float64)
    for n in range(2):
        for y in range(5):
            for x in range(4):
                for dy, dx in ((0, 1), (1, 0)):
                    pair = tuple(sorted((int(labels[n, y, x]), int(labels[n, y + dy, x + dx]))))
                    if pair in pairs:
                        expected[n, pairs.index(pair), y, x] += 1
    assert torch.equal(found, expected)


def test_distance_of_two_phases():
    """A direction w of unit length sees k^2 pixels change from one phase to another: E (sum w0 - w1)^2 = 2 k^2 / (P k^2) = 2 / P."""
    none = constant([0])[:0]
    assert distance(constant([0] * 4), none, constant([1] * 4)).item() == pytest.approx(2 / 3, rel=0.1)
    assert distance(constant([1] * 4), none, constant([1] * 4)).item() == pytest.approx(0.0, abs=1e-10)
    # the block mean of uniform slices is uniform: the same once more
    assert distance(constant([0] * 4), none, constant([1] * 4), pyramid=[1, 2]).item() == pytest.approx(4 / 3, rel=0.1)
    # scales with too few pixels for a patch are left out
    assert distance(constant([0] * 4), none, constant([1] * 4), pyramid=[1, 4]).item() == pytest.approx(2 / 3, rel=0.1)


def test_earlier_places_share_what_the_images_hold():
    real = constant([0, 1] * 50)
    alone = distance(constant([0] * 4), constant([0])[:0], real)
    shared = distance(constant([0] * 4), constant([1] * 16), real)  # a quarter as many patches of each earlier slice
    assert alone.item() == pytest.approx(1 / 3, rel=0.2) and shared.item() < 0.2 * alone.item()


def test_only_as_much_turns_as_the_images_hold_and_the_nearest_first():
    share = torch.tensor([0.01, 0.05, 0.02, 0.06, 0.03, 0.00, 0.04, 0.025])
    fake = torch.stack([1 - share, share, 0 * share], 1)[:, :, None, None].repeat(1, 1, 20, 20).requires_grad_(True)
    distance(fake, constant([0])[:0], constant([0] * 60 + [1] * 20)).backward()
    push = (fake.grad[:, 0] - fake.grad[:, 1]).sum((1, 2))  # > 0: a step turns phase 0 into phase 1
    assert set(push.topk(2).indices.tolist()) == {1, 3}
    assert push[[1, 3]].min() > 5 * push[[0, 2, 4, 5, 6, 7]].max()


def test_rare_contacts_weigh_in_units_of_their_spread():
    """Two materials with the same fractions in every patch but different contacts; the gradient asks for less contact."""
    stripes = torch.zeros(4, 3, 20, 20)
    stripes[:, 0, :, ::2] = stripes[:, 1, :, 1::2] = 1
    none, real = stripes[:0], constant([0, 1] * 20).float()
    without, with_ = (distance(stripes, none, real, contact_weight=weight) for weight in (0.0, 1.0))
    # each of the stripes' contacts is 1 = 50 times the floor, in one of three channels: k^4 50^2 (mean of w)^2 = k^2 50^2 / (3 k^2)
    assert (with_ - without).item() == pytest.approx(50**2 / 3, rel=0.15)


def test_the_gradient_goes_to_the_newest_alone():
    fake, earlier = (constant([0] * 2).float().requires_grad_(True) for _ in range(2))
    distance(fake, earlier, constant([1] * 4), contact_weight=1.0).backward()
    assert fake.grad.abs().sum() > 0 and earlier.grad is None


def test_slices_smaller_than_a_patch():
    small = constant([0], edge=5)
    with pytest.raises(ValueError, match="smaller than a patch"):
        distance(small, small[:0], small)
