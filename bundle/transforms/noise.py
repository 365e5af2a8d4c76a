"""The noise channel of the generator's input."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor


class RandNoiseChanneld(RandomizableTransform, MapTransform):
    """Appends one channel of Gaussian noise to a channel-first array: (C, d, h, w) -> (C + 1, d, h, w), float32.

    Args:
        keys: entries to extend.
        std: standard deviation; 0 is the paper's ablation without noise.
    """

    def __init__(self, keys: KeysCollection, std: float = 1.0):
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.std = std

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Returns a copy of the dictionary with the noise appended."""
        result = dict(data)
        for key in self.key_iterator(result):
            x = torch.as_tensor(result[key]).float()
            noise = self.std * self.R.standard_normal((1, *x.shape[1:])).astype(np.float32)
            result[key] = torch.cat([x, torch.from_numpy(noise).to(x.device)])
        return result
