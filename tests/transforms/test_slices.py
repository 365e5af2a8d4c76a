"""HR crops and slices of volumes: what the critics compare."""

import numpy as np
import pytest
import torch

from bundle.errors import InputError
from bundle.transforms.slices import RandSliceCropsd, random_slices, symmetry

# rows and columns of each symmetry of the square, written with mirrors and the transpose alone
SYMMETRIES = [
    lambda a: a,
    lambda a: a[::-1],
    lambda a: a[:, ::-1],
    lambda a: a[::-1, ::-1],
    lambda a: a.T,
    lambda a: a.T[::-1],
    lambda a: a.T[:, ::-1],
    lambda a: a.T[::-1, ::-1],
]


def labels(seed: int, *size: int, n: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n, size).astype(np.uint8)


def crops(images, size, number, seed=0, n_phases=5, **kwargs) -> np.ndarray:
    """Labels (number, size, size) of the crops, after a check that they are one-hot."""
    transform = RandSliceCropsd("hr", [size], number, n_phases, **kwargs).set_random_state(seed=seed)
    (result,) = transform({"hr": images})["hr"]
    assert result.shape == (number, n_phases, size, size) and result.dtype == torch.float32
    assert torch.equal(result.sum(1), torch.ones(number, size, size)) and torch.equal(result, result.round())
    return result.argmax(1).numpy()


def test_symmetry_is_the_group_of_the_square():
    image = np.arange(9).reshape(3, 3)
    expected = {f(image).tobytes() for f in SYMMETRIES}
    assert len(expected) == 8
    assert {symmetry(image, k).tobytes() for k in range(8)} == expected
    assert np.array_equal(symmetry(image, 0), image)


def test_all_symmetries_of_source_crops_and_nothing_else():
    image, size = labels(0, 6, 7), 4
    sources = [image[y : y + size, x : x + size] for y in range(3) for x in range(4)]
    allowed = {f(source).tobytes() for source in sources for f in SYMMETRIES}
    assert len(allowed) == 12 * 8
    seen = crops([image], size, 1500)
    values, counts = np.unique([c.tobytes() for c in seen.astype(np.uint8)], return_counts=True)
    assert set(c.astype(np.uint8).tobytes() for c in seen) == allowed  # the last row and column of positions too
    assert len(values) == 96 and counts.min() >= 3  # 15.6 expected of each


def test_mirrors_alone_where_the_axes_differ():
    image, size = labels(1, 5, 7), 4
    sources = [image[y : y + size, x : x + size] for y in range(2) for x in range(4)]
    seen = {c.astype(np.uint8).tobytes() for c in crops([image], size, 600, symmetries=4)}
    assert seen == {f(source).tobytes() for source in sources for f in SYMMETRIES[:4]}
    with pytest.raises(InputError, match="symmetries: 2"):
        RandSliceCropsd("hr", [4], 1, 2, symmetries=2)


def test_every_place_of_images_of_different_sizes_is_equally_likely():
    small, large = np.zeros((4, 4), np.uint8), np.ones((6, 10), np.uint8)  # 1 and 3 x 7 places of a crop of 4
    share = crops([small, large], 4, 2000).mean()
    assert share == pytest.approx(21 / 22, abs=4 * (21 / 22 / 22 / 2000) ** 0.5)


def test_one_hot_and_a_set_for_each_size():
    transform = RandSliceCropsd(["hr", "xz"], sizes=[3, 5, 4], number=2, n_phases=6)
    data = {"hr": [labels(2, 8, 9)], "xz": [labels(3, 5, 6), labels(4, 7, 5)], "name": "a"}
    before = data["hr"][0].copy()
    result = transform(data)
    for key in ("hr", "xz"):
        assert [tuple(c.shape) for c in result[key]] == [(2, 6, 3, 3), (2, 6, 5, 5), (2, 6, 4, 4)]
        assert not any(c[:, 5].any() for c in result[key])  # a phase that no image holds
    assert result["name"] == "a"
    assert isinstance(data["hr"], list) and np.array_equal(data["hr"][0], before)


def test_the_chances_of_the_images_are_worked_out_once(monkeypatch):
    """Of thousands of images they take longer than the crops; other images, also under the same key, have their own."""
    counted, chances = [], RandSliceCropsd._chances
    monkeypatch.setattr(RandSliceCropsd, "_chances", staticmethod(lambda images, size: counted.append(size) or chances(images, size)))
    transform, images = RandSliceCropsd("hr", [3, 2], 4, 5).set_random_state(seed=0), [labels(i, 6, 7) for i in range(3)]
    for _ in range(3):
        transform({"hr": images})
    assert counted == [3, 2]
    others = [labels(9, 4, 4, n=1)]
    assert all(crop.argmax(1).max() == 0 for crop in transform({"hr": others})["hr"]) and counted == [3, 2, 3, 2]


def test_deterministic_by_its_random_state():
    images = [labels(5, 20, 20)]
    assert np.array_equal(crops(images, 6, 5, seed=1), crops(images, 6, 5, seed=1))
    assert not np.array_equal(crops(images, 6, 5, seed=1), crops(images, 6, 5, seed=2))
    transform = RandSliceCropsd("hr", [6], 5, 5).set_random_state(seed=1)
    first, second = transform({"hr": images})["hr"][0], transform({"hr": images})["hr"][0]
    assert not torch.equal(first, second)


@pytest.mark.parametrize("size", [(3, 9), (9, 3)])
def test_images_smaller_than_the_crop(size):
    with pytest.raises(InputError, match="only 3 pixels wide, smaller than the critic's crop of 4"):
        crops([labels(6, 8, 8), labels(7, *size)], 4, 1)
    assert crops([labels(7, *size)], 3, 1).shape == (1, 3, 3)


@pytest.fixture
def volume() -> torch.Tensor:
    """(B, C, 6, 7, 8), every voxel's value its own index."""
    b, c, z, y, x = np.ogrid[:2, :3, :6, :7, :8]
    return torch.from_numpy(10000 * b + 1000 * c + 100 * z + 10 * y + x)


def one_slice(volume: torch.Tensor, item: int, plane: str, index: int) -> torch.Tensor:
    if plane == "xy":
        return volume[item, :, index]
    return volume[item, :, :, index] if plane == "xz" else volume[item, :, :, :, index]


@pytest.mark.parametrize(("plane", "n", "shape"), [("xy", 6, (7, 8)), ("xz", 7, (6, 8)), ("yz", 8, (6, 7))])
def test_all_slices_of_a_plane(volume, plane, n, shape):
    """xy at constant z as (y, x); xz at constant y as (z, x); yz at constant x as (z, y); volume by volume."""
    slices = random_slices(volume, plane)
    assert slices.shape == (2 * n, 3, *shape)
    for item in range(2):
        for index in range(n):
            assert torch.equal(slices[item * n + index], one_slice(volume, item, plane, index))


@pytest.mark.parametrize(("plane", "n"), [("xy", 4), ("xz", 5), ("yz", 6)])
def test_the_border_is_cut_on_every_side(volume, plane, n):
    slices = random_slices(volume, plane, border=1)
    inner = volume[:, :, 1:5, 1:6, 1:7]
    assert len(slices) == 2 * n
    for item in range(2):
        for index in range(n):
            assert torch.equal(slices[item * n + index], one_slice(inner, item, plane, index))


@pytest.mark.parametrize("plane", ["xy", "xz", "yz"])
def test_random_slices_are_whole_and_drawn_once(volume, plane):
    torch.manual_seed(0)
    n = volume.shape[2 + ("xy", "xz", "yz").index(plane)]
    seen = set()
    for _ in range(60):
        slices = random_slices(volume, plane, number=3)
        assert len(slices) == 2 * 3
        for item in range(2):
            indices = []
            for s in slices[3 * item : 3 * item + 3]:
                (index,) = [i for i in range(n) if torch.equal(s, one_slice(volume, item, plane, i))]
                indices.append(index)
            assert len(set(indices)) == 3
            seen.update(indices)
    assert seen == set(range(n))


def test_random_slices_follow_the_seed_and_carry_the_gradient(volume):
    x = volume.double().requires_grad_(True)
    torch.manual_seed(1)
    first = random_slices(x, "xz", 2, border=1)
    torch.manual_seed(1)
    assert torch.equal(first, random_slices(x, "xz", 2, border=1))
    first.sum().backward()
    assert x.grad.sum() == first.numel() and set(x.grad.unique().tolist()) == {0.0, 1.0}


def test_unknown_plane(volume):
    with pytest.raises(KeyError):
        random_slices(volume, "zx")
