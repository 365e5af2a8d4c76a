"""Prices on phases and contacts: counted by loops, and signs that a rock physicist would expect."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bundle.losses.feedback import StatisticsFeedback, facing, slice_statistics
from bundle.metrics import statistics

PAIRS = [(0, 1), (0, 2), (1, 2)]
BOARD = (np.indices((24, 24)).sum(0) % 2).astype(np.uint8)


def onehot(*labels: np.ndarray) -> Tensor:
    """(y, x) labels each -> (N, 3, y, x) float64."""
    return F.one_hot(torch.from_numpy(np.stack(labels)).long(), 3).movedim(-1, 1).double()


def flat(phase: int, edge: int = 24) -> np.ndarray:
    return np.full((edge, edge), phase, np.uint8)


def stripes(width: int) -> np.ndarray:
    """Columns of phases 0 and 1, each `width` pixels."""
    return np.broadcast_to(np.arange(24) // width % 2, (24, 24)).astype(np.uint8)


def feedback(*images: np.ndarray, lr_fractions=(1.0,), **options) -> StatisticsFeedback:
    return StatisticsFeedback({"hr": list(images)}, 3, lr_fractions, **options)


def of_label(label: int, number: int = 1) -> Tensor:
    """Shares of two LR labels in slices that are all of one."""
    return torch.eye(2)[label].expand(number, 2)


def priced(images: list[np.ndarray], fake: Tensor, pool: Tensor, **options) -> tuple[float, Tensor]:
    """The loss of slices and its gradient, when the slices of a step before were `pool`; the volume has no LR label of the newest."""
    loss = feedback(*images, lr_fractions=(1.0, 0.0), **options)
    loss("hr", pool, of_label(0, len(pool)))
    fake = fake.clone().requires_grad_(True)
    value = loss("hr", fake, of_label(1, len(fake)))
    return value.item(), torch.autograd.grad(value, fake)[0]


@pytest.mark.parametrize("other", [False, True])
def test_statistics_are_counts_of_each_slice(other):
    """By loops. Shares of all pixels; of the faces of inner pixels, each half theirs and two a pixel, those between two phases. Of other labels the
    mean of two counts: an inner pixel is of the ones and what is beside it of the others, or the other way round."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, (2, 7, 6))
    around = draw.integers(0, 3, (2, 7, 6)) if other else labels
    result = slice_statistics(onehot(*labels), facing(onehot(*around)))
    for image, beside, found in zip(labels, around, result, strict=True):
        expected = [float((image == phase).mean()) for phase in range(3)]
        for pair in PAIRS:
            faces = 0.0
            for y, x in np.ndindex(5, 4):
                for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                    for own, others in ((image, beside), (beside, image)):
                        faces += 0.25 * (tuple(sorted((own[y + 1, x + 1], others[y + 1 + dy, x + 1 + dx]))) == pair)
            expected.append(faces / (2 * 5 * 4))
        assert found.tolist() == pytest.approx(expected, rel=1e-12)


def of_labels(x: Tensor) -> Tensor:
    """Statistics of labels."""
    return slice_statistics(x, facing(x))


@pytest.mark.parametrize(("image", "area"), [(BOARD, 1.0), (stripes(1), 0.5), (flat(1), 0.0)])
def test_statistics_are_those_of_the_evaluation(image, area):
    """Where the border is like the rest there is no difference."""
    x = onehot(image)
    found = of_labels(x)[0].tolist()
    assert found == pytest.approx(statistics(image, 3).tolist()) and found[3] == pytest.approx(area)


def test_too_much_of_a_phase_is_charged_and_too_little_rewarded():
    """Images half of 0, half of 1; a pool three quarters of 0."""
    pool = onehot(flat(0), flat(0), flat(0), flat(1))
    (much, gradient), (little, _) = (priced([flat(0), flat(1)], onehot(flat(phase)), pool) for phase in (0, 1))
    sums = gradient.sum((0, 2, 3))  # of a whole phase, 1 of six statistics
    most = 15 / 0.5 / 6
    assert 0.3 * most < sums[0] < most and -most < sums[1] < -0.3 * most and sums[2] == 0
    assert much == pytest.approx(sums[0].item(), rel=1e-3) and little == pytest.approx(sums[1].item(), rel=1e-3)


def test_a_contact_is_charged_where_two_phases_meet():
    """Where it is too frequent, phase a of a pixel costs by the number of its neighbours of the other phase; the shares are as wanted."""
    labels = np.zeros((24, 24), np.uint8)
    labels[:, 13:] = 1
    labels[5:9, 4:7] = 1
    _, gradient = priced([stripes(4)], onehot(labels), onehot(stripes(1)))
    others = np.zeros((3, 24, 24))
    for y, x in np.ndindex(20, 20):
        beside = [labels[y + 2 + dy, x + 2 + dx] for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        others[0, y + 2, x + 2], others[1, y + 2, x + 2] = beside.count(1), beside.count(0)
    inner = (slice(None), slice(2, -2), slice(2, -2))
    unit = gradient[0, 0, 15, 12]  # of phase 0 beside one pixel of phase 1
    assert unit > 0
    np.testing.assert_allclose((gradient[0] / unit).numpy()[inner], others[inner], atol=1e-4)


@pytest.mark.parametrize("reward", [0.0, 0.2])
def test_a_contact_that_is_too_rare_earns_the_reward_at_most(reward):
    """A full one would be earned with specks. The pool has none, the image half of all faces; the shares are as wanted."""
    fake = onehot(stripes(4))
    value, gradient = priced([stripes(1)], fake, onehot(flat(0), flat(1)), reward=reward)
    area = of_labels(fake)[0, 3].item()
    assert area > 0.1 and value == pytest.approx(-reward / (0.5 + 0.0501) * area / 6, abs=2e-4)
    assert reward or gradient.abs().sum() < 1e-3


@pytest.mark.parametrize("made", [1 / 2304, 0.25])
def test_the_price_of_a_phase_that_the_images_lack(made):
    """15 log2(made / wanted) / wanted, both more by 0.0031, and the logarithm at most 1: a speck is dear, but no more than a grain."""
    speck = flat(0)
    speck[0, 0] = 1  # a corner is beside no inner pixel: there are no contacts
    fake = onehot(speck if made < 0.25 else flat(1), *[flat(0)] * 3)
    fake.requires_grad_(True)
    value = feedback(flat(0))("hr", fake, torch.ones(4, 1))
    prices = torch.autograd.grad(value, fake)[0].sum((0, 2, 3)) * 6  # one of six statistics each
    expected = [15 * np.log2((1 - made + 0.1031) / 1.1031) / 1.1031, 15 * min(np.log2((made + 0.0031) / 0.0031), 1) / 0.0031, 0]
    assert prices.tolist() == pytest.approx(expected, rel=1e-3)
    assert value.item() == pytest.approx(((1 - made) * expected[0] + made * expected[1]) / 6, rel=1e-3)


@pytest.mark.parametrize("fractions", [0.0, 60.0])
def test_the_weight_of_a_fractions_price(fractions):
    """Half of label 1 where there should be none: its price is 1 / 0.0031 times the weight; what is missing earns log2(0.6031 / 1.1031) / 1.1031."""
    value = feedback(flat(0), fractions=fractions)("hr", onehot(flat(0), flat(1)), torch.ones(2, 1)).item()
    assert value == pytest.approx(fractions * (0.5 * np.log2(0.6031 / 1.1031) / 1.1031 + 0.5 / 0.0031) / 6, rel=1e-3)


def test_the_price_of_contacts_that_the_images_lack():
    """A checkerboard, all faces between two phases: its contacts cost 1 / 0.0001, its fractions as above."""
    value = feedback(flat(0))("hr", onehot(BOARD), torch.ones(1, 1)).item()
    fractions = 15 * (0.5 * np.log2(0.6031 / 1.1031) / 1.1031 + 0.5 / 0.0031)
    assert value == pytest.approx((fractions + 1 / 1e-4) / 6, rel=1e-3)


def test_the_price_is_bounded():
    """A pool of one phase alone: one share is too large, the two others and all contacts are missing. Each price is 1 / 1.1 of what is wanted
    at most, the reward of a contact a fifth of it."""
    image = np.random.default_rng(1).integers(0, 3, (24, 24)).astype(np.uint8)
    loss, _ = priced([image], onehot(image), onehot(flat(2)))
    assert loss == pytest.approx((15 * (1 - 2) - 0.2 * 3) / 1.1 / 6, rel=0.03)


def test_nothing_is_priced_when_the_labels_of_the_pool_are_as_wanted():
    """Labels count, however unsure the probabilities are."""
    unsure = 0.4 * onehot(BOARD) + 0.2
    assert not torch.equal(unsure, unsure.round())
    for fake in (onehot(flat(0)), onehot(stripes(4)), onehot(BOARD)):
        loss, gradient = priced([BOARD], fake, unsure)
        assert loss == pytest.approx(0, abs=1e-4) and gradient.abs().sum() < 1e-3


def test_wanted_is_the_mean_over_the_images_whatever_their_size():
    assert priced([flat(0, 8), flat(1, 40)], onehot(flat(0)), onehot(flat(0), flat(1)))[0] == pytest.approx(0, abs=1e-4)


def test_made_is_weighted_by_the_lr_labels_of_the_volume():
    """Three slices of one label, one of the other; the volume is a quarter and three quarters."""
    loss = feedback(BOARD, lr_fractions=(0.25, 0.75))
    loss("hr", onehot(flat(0), flat(0)), of_label(0, 2))
    loss("hr", onehot(flat(0), stripes(1)), torch.cat([of_label(0), of_label(1)]))
    assert loss.made("hr").tolist() == pytest.approx([0.25 + 0.75 / 2, 0.75 / 2, 0, 0.75 / 2, 0, 0], abs=1e-3)


def test_the_last_steps_are_counted_the_newest_included():
    loss, one = feedback(BOARD, steps=2), torch.ones(1, 1)
    for phase, expected in ((0, [1, 0, 0]), (1, [0.5, 0.5, 0]), (2, [0, 0.5, 0.5])):
        loss("hr", onehot(flat(phase)), one)
        assert loss.made("hr").tolist() == pytest.approx([*expected, 0, 0, 0], abs=1e-9)


def test_a_checkpoint_holds_the_counts(tmp_path):
    loss, one = feedback(BOARD, steps=2), torch.ones(1, 1)
    for phase in (0, 2):
        loss("hr", onehot(flat(phase)), one)
    torch.save(loss.state_dict(), tmp_path / "counts.pt")
    resumed = feedback(BOARD, steps=2)
    resumed.load_state_dict(torch.load(tmp_path / "counts.pt", weights_only=True))
    fake = onehot(stripes(1))
    assert resumed("hr", fake, one).item() == loss("hr", fake, one).item()
    assert resumed.made("hr").tolist() == pytest.approx([0.25, 0.25, 0.5, 0.25, 0, 0], abs=1e-9)


def test_a_state_stays_what_it_was():
    """Later steps change neither a state kept in memory nor the one it was loaded from."""
    loss, one = feedback(BOARD, steps=1), torch.ones(1, 1)
    loss("hr", onehot(flat(0)), one)
    state = loss.state_dict()
    resumed = feedback(BOARD, steps=1)
    resumed.load_state_dict(state)
    for later in (loss, resumed):
        later("hr", onehot(flat(1)), one)
        assert state["hr"][0][0][0].tolist() == [1, 0, 0, 0, 0, 0]


def test_every_group_has_its_own_images_and_counts():
    both = StatisticsFeedback({"a": [flat(0)], "b": [flat(1)]}, 3, [1.0])
    for group, phase in (("a", 0), ("b", 1), ("a", 0)):
        assert both(group, onehot(flat(phase)), torch.ones(1, 1)).item() == pytest.approx(0, abs=1e-9)
    assert both("b", onehot(flat(0)), torch.ones(1, 1)).item() > 0.1


def test_the_gradient_goes_to_the_newest_alone():
    fake, before = (onehot(flat(0)).requires_grad_(True) for _ in range(2))
    loss = feedback(flat(0), flat(1))
    loss("hr", before, torch.ones(1, 1))
    loss("hr", fake, torch.ones(1, 1)).backward()
    assert fake.grad.abs().sum() > 0 and before.grad is None
