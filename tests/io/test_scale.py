"""The scale factors that can be made."""

import pytest

from bundle.errors import InputError
from bundle.io.scale import doublings


def test_doublings():
    """Of the levels of x2: nothing else is made of them."""
    assert [doublings(factor) for factor in (2, 4, 8, 16, 32)] == [1, 2, 3, 4, 5]
    for factor in (0, 1, 3, 6, 64, 8.5):
        with pytest.raises(InputError, match=f"scale_factor: {factor} is none of 2, 4, 8, 16, 32"):
            doublings(factor)
