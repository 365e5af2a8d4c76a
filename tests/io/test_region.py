"""Parts of a volume: what is a region and what is none."""

from __future__ import annotations

import pytest

from bundle.errors import InputError
from bundle.io.region import region_slices


def test_a_region_of_whole_voxels():
    assert region_slices((6, 8, 8), [[0, 6], [1, 8.0], [2, 3]]) == (slice(0, 6), slice(1, 8), slice(2, 3))
    assert region_slices((6, 8, 8), None) == (slice(0, 6), slice(0, 8), slice(0, 8))


@pytest.mark.parametrize("first", [[0.5, 3], [0, 3.9], [-1, 3], [3, 3], [0, 7], [0], "x"])
def test_what_is_no_region_inside_the_volume(first):
    with pytest.raises(InputError, match="lr_region"):
        region_slices((6, 8, 8), [first, [0, 8], [0, 8]])


def test_null_as_the_command_line_gives_it():
    with pytest.raises(InputError, match=r"^lr_region null is not .*; give such ranges, or null \(on the command line '\$None'\) for all$"):
        region_slices((6, 8, 8), "null")
