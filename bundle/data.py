"""The training data: random LR patches and HR crops, a function of seed, epoch and index alone, so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from monai.data import Dataset
from monai.transforms import Compose


class RandomPatches(Dataset):
    """One item, loaded once by the fixed transforms, then cropped anew by the random ones.

    Args:
        data: what the fixed transforms start from, such as {"image": path, "hr": paths}.
        fixed: transforms applied once (load, map labels, crop the region).
        transform: random transforms, applied for every patch.
        length: patches an epoch.
        seed: of the random transforms.
    """

    def __init__(self, data: Mapping[str, Any], fixed: Callable, transform: Compose, length: int, seed: int):
        super().__init__(data=[fixed(dict(data))], transform=transform)
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Draws other patches: the trainer calls it when an epoch starts."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.length:
            raise IndexError(index)
        words = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)
        self.transform.set_random_state(seed=int(words[0]))
        return self.transform(self.data[0])
