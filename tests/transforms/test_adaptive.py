"""Augmentations move labels and never change one; their probability follows how far a critic overfits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bundle.errors import InputError
from bundle.transforms.adaptive import FEW, MOST, AdaptiveAugmentation, LabelAugmentation, wanted

OFF = {"symmetries": 4, "shift": 0.0, "rotation": 0.0, "scaling": 0.0, "cutout": 0.0}


def one_hot(labels: np.ndarray, n: int = 3) -> torch.Tensor:
    """(N, h, h) labels -> (N, n, h, h)."""
    return (torch.from_numpy(labels)[:, None] == torch.arange(n)[:, None, None]).float()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(3, size=(8, 8))


def augmented(image: np.ndarray, number: int = 200, seed: int = 0, **options) -> list[np.ndarray]:
    """Label maps that an augmentation with p = 1 makes of one image."""
    torch.manual_seed(seed)
    maps = LabelAugmentation(**{**OFF, **options})(one_hot(np.repeat(image[None], number, 0)), 1.0)
    assert set(maps.unique().tolist()) <= {0.0, 1.0}
    return list(np.where(maps.sum(1) > 0, maps.argmax(1), -1))


def turned(image: np.ndarray) -> list[np.ndarray]:
    return [np.rot90(side, k) for side in (image, image.T) for k in range(4)]


def test_with_p_0_nothing_changes(image):
    maps = one_hot(image[None])
    assert LabelAugmentation()(maps, 0.0) is maps


@pytest.mark.parametrize("symmetries", [8, 4])
def test_the_symmetries_of_the_square(image, symmetries):
    allowed = turned(image) if symmetries == 8 else [image, image[::-1], image[:, ::-1], image[::-1, ::-1]]
    found = augmented(image, symmetries=symmetries)
    assert {one.tobytes() for one in found} == {np.ascontiguousarray(one).tobytes() for one in allowed}


def test_shifts_by_whole_pixels_with_the_image_mirrored_beyond_its_border(image):
    most = 2
    wide = np.pad(image, most, mode="symmetric")
    shifted = {wide[y : y + 8, x : x + 8].tobytes() for y in range(2 * most + 1) for x in range(2 * most + 1)}
    turns = {np.ascontiguousarray(wide_turn[y : y + 8, x : x + 8]).tobytes()
             for wide_turn in (wide, wide[::-1], wide[:, ::-1], wide[::-1, ::-1]) for y in range(5) for x in range(5)}  # fmt: skip
    found = {one.tobytes() for one in augmented(image, 2000, shift=most / 8)}
    assert found <= turns and shifted <= found


@pytest.mark.parametrize("option", [{"rotation": 20.0, "symmetries": 8}, {"scaling": 0.3}])
def test_rotation_and_scaling_take_each_pixel_from_near_where_it_belongs(option):
    ramp = np.arange(16)[:, None].repeat(16, 1) // 6  # three bands; wherever a pixel is taken from, its neighbour in the band is near
    found = augmented(ramp, 50, seed=1, **option)
    assert len({one.tobytes() for one in found}) > 10  # not the symmetries alone
    assert all(set(np.unique(one)) <= {0, 1, 2} for one in found)


def test_a_scaling_by_two_is_that_of_the_library(monkeypatch):
    image = np.random.default_rng(1).integers(3, size=(8, 8))
    monkeypatch.setattr(torch, "randn", lambda n: torch.ones(n))
    monkeypatch.setattr(torch, "randint", lambda high, size, *rest: torch.zeros(size if isinstance(size, tuple) else rest[0], dtype=torch.long))
    (found,) = augmented(image, 1, scaling=1.0)
    assert np.array_equal(found, image[2:6, 2:6].repeat(2, 0).repeat(2, 1))


def test_cutout_takes_a_square_away(image):
    for one in augmented(image, 100, cutout=0.5):
        rows, columns = np.nonzero(one == -1)
        assert len(rows) > 0
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height * width and max(height, width) <= 5 and min(height, width) >= 2
        assert max(height, width) >= 3 or 0 in (*rows, *columns) or 7 in (*rows, *columns)  # less than half an edge: cut by the border


def test_a_map_in_p_is_changed(image):
    torch.manual_seed(0)
    maps = one_hot(np.repeat(image[None], 4000, 0))
    changed = (LabelAugmentation(**{**OFF, "cutout": 0.5})(maps, 0.3).sum((1, 2, 3)) < 64).float().mean()
    assert abs(float(changed) - 0.3) < 0.03


def test_gradients_go_back_to_the_pixels_that_are_shown(image):
    torch.manual_seed(0)
    maps = one_hot(np.repeat(image[None], 5, 0)).requires_grad_(True)
    weights = torch.randn(5, 3, 8, 8)
    augmentation = LabelAugmentation(scaling=0.5)
    state = torch.get_rng_state()
    (augmentation(maps, 1.0) * weights).sum().backward()
    torch.set_rng_state(state)
    places = torch.arange(64.0).view(1, 1, 8, 8).expand(5, 3, 8, 8)  # the same moves, of numbers that tell the place
    torch.set_rng_state(state)
    kept = augmentation(torch.ones(5, 3, 8, 8), 1.0)
    torch.set_rng_state(state)
    moved = augmentation(places, 1.0)
    wanted = torch.zeros(5, 3, 64)
    for n in range(5):
        for p in range(3):
            np.add.at(wanted[n, p].numpy(), moved[n, p].long().flatten().numpy(), (weights * kept)[n, p].flatten().numpy())
    torch.testing.assert_close(maps.grad.flatten(2), wanted)


def test_maps_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="8 x 6 pixels cannot be turned"):
        LabelAugmentation()(torch.zeros(1, 3, 8, 6), 0.5)


def follow(ada: AdaptiveAugmentation, real: list[float], fake: list[float], times: int = 1) -> float:
    for _ in range(times):
        ada.follow("hr", torch.tensor(real), torch.tensor(fake))
    return ada.p["hr"]


def test_p_rises_while_the_critic_knows_its_reals_and_falls_while_it_does_not():
    ada = AdaptiveAugmentation(LabelAugmentation(), interval=4, images=160, zero=True)
    assert follow(ada, [1.0, 2.0, 0.5, 3.0], [-1.0]) == pytest.approx(4 * 4 / 160) and ada.r["hr"] == 1.0
    assert follow(ada, [1.0, 2.0, 0.5, 3.0], [-1.0], 2) == pytest.approx(3 * 4 * 4 / 160)
    assert follow(ada, [1.0, 2.0, 0.5, -3.0], [-1.0]) == pytest.approx(2 * 4 * 4 / 160) and ada.r["hr"] == 0.5
    assert follow(ada, [-1.0, -1.0, -1.0, -1.0], [-1.0], 9) == 0.0
    assert follow(ada, [1.0, 2.0, 0.5, 3.0], [-1.0], 99) == MOST


def test_where_scores_have_no_zero_the_middle_between_real_and_fake_is_taken():
    scores = [101.0, 102.0, 103.0, 104.0], [100.0, 90.0, 110.0, 102.0]  # means 102.5 and 100.5: the middle is 101.5
    ada = AdaptiveAugmentation(LabelAugmentation(), images=1000)
    follow(ada, *scores)
    assert ada.r["hr"] == 0.5
    absolute = AdaptiveAugmentation(LabelAugmentation(), images=1000, zero=True)
    follow(absolute, *scores)
    assert absolute.r["hr"] == 1.0


def test_every_critic_has_its_own_probability():
    ada = AdaptiveAugmentation(LabelAugmentation(**{**OFF, "cutout": 0.5}), images=40, zero=True)
    for _ in range(20):
        ada.follow("a", torch.ones(4), torch.zeros(4))
        ada.follow("b", -torch.ones(4), torch.zeros(4))
    maps = torch.ones(50, 2, 8, 8)
    assert ada("b", maps) is maps and ada("unknown", maps) is maps
    assert float((ada("a", maps) == 0).any(1).any(1).any(1).float().mean()) > 0.5


def test_the_state_goes_on():
    ada, again = (AdaptiveAugmentation(LabelAugmentation(), images=100) for _ in range(2))
    follow(ada, [1.0, 2.0], [0.0, 0.5])
    again.load_state_dict(ada.state_dict())
    assert (again.p, again.r) == (ada.p, ada.r) and again.p is not ada.p
    assert follow(again, [1.0, 2.0], [0.0, 0.5]) == follow(ada, [1.0, 2.0], [0.0, 0.5])


def test_critics_are_augmented_where_images_are_few_unless_told_otherwise():
    assert wanted(None, [[0] * (FEW - 1), [0] * 500]) and not wanted(None, [[0] * FEW])
    assert wanted("true", [[0] * 500]) and not wanted("False", [[0]]) and wanted(True, [[0] * 500])
    with pytest.raises(InputError, match="augment_critics: maybe is neither true nor false"):
        wanted("maybe", [[0]])
