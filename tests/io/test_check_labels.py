import numpy as np
import pytest

from bundle.errors import InputError
from bundle.io import check_labels


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float32", "float64", ">u2"])
def test_whole_numbers_of_any_type_are_labels(dtype):
    array = np.random.default_rng(0).integers(0, 3, (4, 5, 6))
    labels = check_labels(array.astype(dtype), 3, "a.tif")
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, array)


def test_labels_that_do_not_occur_are_fine():
    assert check_labels(np.zeros((2, 2), bool), 4, "a.tif").dtype == np.uint8


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 4, 6), (1, 2, 4, 6)])
@pytest.mark.parametrize("table", [{0: 1, 128: 0, 255: 2}, {"0": 1, "128": "0", "255": 2}, {0.0: 1, 128: 0, 255: 2, 7: 1}])
def test_table(shape, table):
    array = np.random.default_rng(0).choice([0, 128, 255], shape)
    expected = np.select([array == 0, array == 128, array == 255], [1, 0, 2])  # by comparison, not by search
    np.testing.assert_array_equal(check_labels(array.astype(np.uint8), 3, "a.tif", table), expected)
    np.testing.assert_array_equal(check_labels(array.astype(np.float32), 3, "a.tif", table), expected)


def test_table_may_give_negative_values_a_label():
    np.testing.assert_array_equal(check_labels(np.array([-1, 0, 1]), 2, "a.tif", {-1: 0, 0: 1, 1: 1}), [0, 1, 1])


def test_checked_labels_are_not_copied_nor_the_input_changed():
    array = np.array([[0, 1]], np.uint8)
    assert np.shares_memory(check_labels(array, 2, "a.tif"), array)
    check_labels(array, 2, "a.tif", {0: 1, 1: 0})
    np.testing.assert_array_equal(array, [[0, 1]])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([[0.0, np.nan]]), "NaN"),
        (np.array([[0.0, np.inf]]), "infinite"),
        (np.array([[0.0, 0.5]]), r"fractional values \(0\.5\)"),
        (np.array([[0, -3]]), r"negative values \(-3\).*lr_labels"),
        (np.array([[0, 128, 255]]), r"\(128, 255\) where 0, 1, 2 are known.*lr_labels"),
        (np.arange(20)[None], r"\(3, 4, 5, 6, 7 and 12 more\)"),
        (np.array([["a"]]), "type"),
        (np.array([[1j]]), "type"),
    ],
)
def test_bad_values_are_one_line(array, words):
    with pytest.raises(InputError, match=r"^a\.tif: .*" + words) as caught:
        check_labels(array, 3, "a.tif")
    assert "\n" not in str(caught.value)


def test_bad_value_in_the_last_slice_is_found():
    array = np.zeros((3, 4, 5), np.uint8)
    array[-1, -1, -1] = 9
    with pytest.raises(InputError, match="9"):
        check_labels(array, 3, "a.tif")


def test_value_that_the_table_lacks():
    with pytest.raises(InputError, match=r"\(7\) where 0, 128 are known; set hr_labels"):
        check_labels(np.array([[0, 7]]), 2, "a.tif", {0: 0, 128: 1}, key="hr_labels")


@pytest.mark.parametrize("table", [{0: 2}, {0: -1}, {0: 0.5}, {"pore": 0}, {0: None}])
def test_wrong_table(table):
    with pytest.raises(InputError, match="^lr_labels"):
        check_labels(np.zeros((1, 1), np.uint8), 2, "a.tif", table, key="lr_labels")


@pytest.mark.parametrize("table", [[1], "null", 3])
def test_what_is_no_table_is_not_the_files_fault(table):
    with pytest.raises(InputError) as caught:
        check_labels(np.zeros((1, 1), np.uint8), 2, "a.tif", table, key="hr_labels")
    assert str(caught.value) == f"hr_labels: {table} is no table of labels; write it as {{0: 0, 128: 1}}, or give null (on the command line '$None')"
