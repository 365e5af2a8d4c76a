"""Map the values of a file to the labels 0..n-1."""

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey, convert_data_type, convert_to_dst_type

from bundle.io.labels import check_labels


class MapLabelsd(MapTransform):
    """Map file values to labels by a table and check them; see `check_labels`.

    Args:
        keys: of the images, each (C, z, y, x) or (C, y, x).
        n_labels: number of phases.
        table: file value -> label; None where the file holds 0..n-1 already.
        table_key: of the table in the config, for the message.
        allow_missing_keys: as in every MapTransform.

    Returns of a call:
        the data with uint8 MetaTensors, metadata kept.

    Raises:
        InputError: values that are no labels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        n_labels: int,
        table: Mapping | None = None,
        table_key: str = "lr_labels",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.n_labels = n_labels
        self.table = table
        self.table_key = table_key

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            name = image.meta.get(ImageMetaKey.FILENAME_OR_OBJ, key) if isinstance(image, MetaTensor) else key
            values = convert_data_type(image, np.ndarray)[0]
            labels = check_labels(values, self.n_labels, str(name), self.table, self.table_key)
            target = image if isinstance(image, MetaTensor) else MetaTensor(torch.as_tensor(image))
            result[key] = convert_to_dst_type(labels, target, dtype=torch.uint8)[0]
        return result
