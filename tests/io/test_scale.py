"""The scale factors that can be made."""

import pytest

from bundle.errors import InputError
from bundle.io.scale import as_pixel_size, check_scale, doublings


def test_doublings():
    """Of the levels of x2: nothing else is made of them."""
    assert [doublings(factor) for factor in (2, 4, 8, 16, 32)] == [1, 2, 3, 4, 5]
    for factor in (0, 1, 3, 6, 64, 8.5):
        with pytest.raises(InputError, match=f"scale_factor: {factor} is none of 2, 4, 8, 16, 32"):
            doublings(factor)


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        (0.5, [(4.0, 4.0, 4.0)]),
        ([1.0, 0.5], [(8.0, 8.0, 4.0), (5.0, 8.0, 4.0)]),  # it does not tell z
        ([0.25, 1.0, 0.5], [(2.0, 8.0, 4.0)]),
        (None, [(1.0, 2.0, 3.0)]),
    ],
)
def test_an_hr_voxel_size_is_checked_as_far_as_it_tells(given, fits):
    for size in fits:
        check_scale(size, given, 8)
    if given is not None:
        with pytest.raises(InputError, match="but scale_factor is 8"):
            check_scale((2.0, 8.0, 4.5), given, 8)
    for bad in ("x", [1.0, -1.0], [1.0] * 4, [[1.0, 2.0], [3.0]]):
        with pytest.raises(InputError, match="hr_voxel_size: .* is not a voxel size"):
            check_scale((4.0, 4.0, 4.0), bad, 8)


def test_pixels_of_a_plane_have_the_edges_of_its_axes():
    for axes in (None, (1, 2), (0, 2), (0, 1)):
        assert as_pixel_size(0.5, axes) == (0.5, 0.5) and as_pixel_size([1.0, 0.5], axes) == (1.0, 0.5)
        assert as_pixel_size((0.5, 0.5, 0.502), axes) == (0.5, 0.5 if axes == (0, 1) else 0.502)  # what programs round
    assert [as_pixel_size([1.0, 2.0, 4.0], axes) for axes in ((1, 2), (0, 2), (0, 1))] == [(2.0, 4.0), (1.0, 4.0), (1.0, 2.0)]
    with pytest.raises(InputError, match=r"hr_voxel_size: \[1, 2, 4\] differs between axes, but one set of images is of no one plane"):
        as_pixel_size([1, 2, 4])
