"""Cut a region out of a volume."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, SpatialCrop

from bundle.io.region import region_slices


class CropRegiond(MapTransform):
    """Keep a region of a volume; the affine of a MetaTensor follows.

    Args:
        keys: of the volumes, each (C, z, y, x).
        region: ((z0, z1), (y0, y1), (x0, x1)) in voxels, ends excluded; None keeps all.
        allow_missing_keys: as in every MapTransform.

    Raises:
        InputError: at the call, a region that is empty or not inside the volume.
    """

    def __init__(
        self,
        keys: KeysCollection,
        region: Sequence[Sequence[int]] | None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.region = region

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        result = dict(data)
        for key in self.key_iterator(result):
            if self.region is not None:
                parts = region_slices(result[key].shape[1:], self.region)
                result[key] = SpatialCrop(roi_slices=parts)(result[key])
        return result
