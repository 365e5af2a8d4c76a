"""Training patches: a function of seed, epoch and index alone."""

import numpy as np
import torch
from monai.transforms import Compose, RandSpatialCropd
from torch.utils.data import DataLoader

from bundle.data import RandomPatches
from bundle.transforms.noise import RandNoiseChanneld
from bundle.transforms.slices import RandSliceCropsd


def make(seed: int = 0, length: int = 4, calls: list | None = None) -> RandomPatches:
    def fixed(data: dict) -> dict:
        if calls is not None:
            calls.append(dict(data))
        rng = np.random.default_rng(data["content"])
        image = torch.from_numpy(rng.integers(0, 2, (2, 12, 12, 12)).astype(np.uint8))
        return {"image": image, "hr": [rng.integers(0, 3, (20, 20)).astype(np.uint8)]}

    patch = RandSpatialCropd("image", (6, 6, 6), random_size=False)
    random = Compose([patch, RandNoiseChanneld("image"), RandSliceCropsd("hr", [8, 4], 2, 3)])
    return RandomPatches({"content": 5}, fixed, random, length, seed)


def key(item: dict) -> bytes:
    return b"".join(np.ascontiguousarray(t).tobytes() for t in (item["image"], *item["hr"]))


def test_an_item_is_a_function_of_seed_epoch_and_index():
    items = {}
    for seed in (0, 1):
        for epoch in (0, 1, 2):
            data = make(seed)
            data.set_epoch(epoch)
            items.update({(seed, epoch, index): key(data[index]) for index in range(4)})
    assert len(set(items.values())) == 2 * 3 * 4
    data = make(1)  # another order, other draws in between, other global state
    for seed, epoch, index in reversed([k for k in items if k[0] == 1]):
        np.random.seed(epoch)
        torch.manual_seed(index)
        data.set_epoch(epoch)
        assert key(data[index]) == items[seed, epoch, index]


def test_each_part_of_an_item_is_drawn_anew():
    """Patch, noise and crops of both sizes all follow the index."""
    data = make()
    first, second = data[0], data[1]
    assert not torch.equal(first["image"][:2], second["image"][:2])
    assert not torch.equal(first["image"][2], second["image"][2])
    for a, b in zip(first["hr"], second["hr"]):
        assert not torch.equal(a, b)


def test_worker_processes_change_nothing():
    batches = list(DataLoader(make(3), batch_size=2, num_workers=2, multiprocessing_context="fork"))
    alone = list(DataLoader(make(3), batch_size=2))
    assert len(batches) == len(alone) == 2
    for a, b in zip(batches, alone):
        assert torch.equal(a["image"], b["image"])
        assert all(torch.equal(s, t) for s, t in zip(a["hr"], b["hr"]))
    assert alone[0]["image"].shape == (2, 3, 6, 6, 6)
    assert [tuple(h.shape) for h in alone[0]["hr"]] == [(2, 2, 3, 8, 8), (2, 2, 3, 4, 4)]


def test_files_are_read_once_and_never_changed():
    calls: list = []
    data = make(calls=calls, length=7)
    before = key(data.data[0])
    assert len(data) == 7
    for index in range(7):
        data[index]
    assert calls == [{"content": 5}]
    assert key(data.data[0]) == before
