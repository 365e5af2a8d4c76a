"""Cut a random patch out of a volume."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable


class RandPatchd(Randomizable, MapTransform):
    """A random cube of a volume, which may reach beyond its border: there the border is repeated, as in inference.

    So the core of a patch, which is what its context makes exact, lies anywhere in the volume. A patch that had to lie inside would show a training
    only the middle of a small volume.

    Args:
        keys: of the volumes, each (C, z, y, x).
        edge: voxels of the patch.
        margin: voxels that it may reach beyond the border on each side; a volume has at least edge - 2 margin along each axis.
    """

    def __init__(self, keys: KeysCollection, edge: int, margin: int) -> None:
        super().__init__(keys)
        self.edge, self.margin = edge, margin

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the dictionary with a patch of each volume."""
        result = dict(data)
        for key in self.key_iterator(result):
            patch, places = torch.as_tensor(result[key]), []
            for axis in (1, 2, 3):
                size = patch.shape[axis]
                start = int(self.R.randint(-self.margin, size + self.margin - self.edge + 1))
                place = torch.arange(start, start + self.edge).clamp(0, size - 1)
                patch = patch.narrow(axis, int(place[0]), int(place[-1] - place[0]) + 1)  # a view: of a large volume whole planes would be copied
                places.append(place - place[0])
            for axis, place in enumerate(places, start=1):
                patch = patch.index_select(axis, place)
            result[key] = patch
        return result
