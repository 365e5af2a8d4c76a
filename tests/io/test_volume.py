import numpy as np
import pytest

from bundle.errors import InputError
from bundle.io import Volume, as_voxel_size, super_resolved_affine
from bundle.io.volume import micrometres, significant, upright


@pytest.mark.parametrize(
    ("unit", "length"),
    [("um", 1), ("µm", 1), ("μm", 1), ("\\u00B5m", 1), ("micron", 1), ("Microns", 1), ("nm", 1e-3), ("mm", 1e3), ("meter", 1e6)]
    + [("pixel", None), ("", None), (None, None), ("inch", None)],
)
def test_micrometres(unit, length):
    assert micrometres(unit) == length


def test_as_voxel_size():
    assert as_voxel_size(3.5) == (3.5, 3.5, 3.5)
    assert as_voxel_size([1, 2, 3]) == (1.0, 2.0, 3.0)
    assert as_voxel_size(3.5, n_axes=2) == (3.5, 3.5) and as_voxel_size([1, 2], n_axes=2) == (1.0, 2.0)
    with pytest.raises(InputError, match=r"or two \[y, x\]"):
        as_voxel_size([1, 2, 3], n_axes=2)


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), [1, 2], "3,5", None, True, [True] * 3])
def test_as_voxel_size_refuses(bad):
    with pytest.raises(InputError, match="lr_voxel_size: .*µm"):
        as_voxel_size(bad, "lr_voxel_size")


def test_affine_maps_index_to_micrometres_in_array_order():
    volume = Volume(np.zeros((2, 3, 4)), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0))
    np.testing.assert_array_equal(volume.affine @ [5, 6, 7, 1], [15, 32, 51, 1])
    back = Volume.from_affine(volume.array, volume.affine)
    assert (back.voxel_size, back.origin) == (volume.voxel_size, volume.origin)


def test_affine_that_turns_or_mirrors_is_refused():
    turned = np.eye(4)[[1, 0, 2, 3]]
    for affine in (turned, np.diag([-1.0, 1, 1, 1]), np.eye(3)):
        with pytest.raises(InputError):
            Volume.from_affine(np.zeros((1, 1, 1)), affine)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_super_resolved_grid_covers_the_same_box(scale):
    shape = np.array([3, 4, 5])
    coarse = Volume(np.zeros(shape), (1.0, 2.0, 3.5), (-4.0, 0.0, 9.0)).affine
    fine = super_resolved_affine(coarse, scale)
    for affine_corner in (lambda n: -0.5 * np.ones(3), lambda n: n - 0.5):
        low = coarse @ [*affine_corner(shape), 1]
        high = fine @ [*affine_corner(shape * scale), 1]
        np.testing.assert_allclose(low, high)
    # a coarse voxel's centre is the mean of its fine voxels' centres
    block = np.arange(scale) + 2 * scale
    np.testing.assert_allclose(np.mean([fine @ [i, i, i, 1] for i in block], axis=0), coarse @ [2, 2, 2, 1])


def test_upright_counts_backward_axes_forward():
    size, origin, signs = upright(np.diag([-1.0, 2.0, -3.0]), [10.0, 20.0, 30.0])
    assert (size, origin, signs) == ((1.0, 2.0, 3.0), (-10.0, 20.0, -30.0), (-1, 1, -1))


def test_upright_of_a_turned_image_keeps_the_size_along_each_axis():
    directions = np.array([[0, 2.0, 0], [1.0, 0, 0], [0, 0, 3.0]])  # the first axis runs along world y
    assert upright(directions, [1, 2, 3]) == ((1.0, 2.0, 3.0), (0.0, 0.0, 0.0), None)


def test_significant():
    assert significant(float(np.float32(5.345))) == 5.345
