"""Cut a region out of a volume."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, SpatialCrop

from bundle.errors import InputError


class CropRegiond(MapTransform):
    """Keep a region of a volume; the affine of a MetaTensor follows.

    Args:
        keys: of the volumes, each (C, z, y, x).
        region: ((z0, z1), (y0, y1), (x0, x1)) in voxels, ends excluded; None keeps all.
        region_key: of the region in the config, for the message.
        allow_missing_keys: as in every MapTransform.

    Raises:
        InputError: at the call, a region that is empty or not inside the volume.
    """

    def __init__(
        self,
        keys: KeysCollection,
        region: Sequence[Sequence[int]] | None,
        region_key: str = "lr_region",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.region, self.region_key = region, region_key

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        result = dict(data)
        for key in self.key_iterator(result):
            if self.region is not None:
                result[key] = self._crop(result[key])
        return result

    def _crop(self, image: torch.Tensor) -> torch.Tensor:
        shape = tuple(image.shape[1:])
        try:
            inside = all(0 <= int(a) < int(b) <= n for (a, b), n in zip(self.region, shape, strict=True))
        except (TypeError, ValueError):  # not three pairs of numbers
            inside = False
        if not inside:
            raise InputError(f"{self.region_key}: {self.region} is not [[z0, z1], [y0, y1], [x0, x1]] inside the volume of {shape} voxels")
        return SpatialCrop(roi_start=[int(r[0]) for r in self.region], roi_end=[int(r[1]) for r in self.region])(image)
