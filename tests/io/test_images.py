import numpy as np
import pytest
import tifffile
from PIL import Image

from bundle.errors import InputError
from bundle.io import read_images


@pytest.fixture
def stack():
    return np.random.default_rng(0).integers(0, 4, (3, 9, 13)).astype(np.uint8)


def save(path, array, size=None):
    options = {"resolution": (1 / size, 1 / size), "metadata": {"unit": "um", "spacing": 1.0}} if size else {}
    tifffile.imwrite(path, array, photometric="minisblack", **options)
    return path


def test_pages_of_a_stack(tmp_path, stack):
    images, size = read_images(save(tmp_path / "a.tif", stack, 0.4375))
    assert len(images) == 3
    np.testing.assert_array_equal(images, stack)
    assert size == (0.4375, 0.4375)


def test_three_pages_written_as_colours(tmp_path, stack):
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_images(tmp_path / "a.tif")[0], stack)


def test_pages_of_different_size(tmp_path, stack):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(stack[0], photometric="minisblack")
        file.write(stack[1, :5], photometric="minisblack")
    assert [a.shape for a in read_images(tmp_path / "a.tif")[0]] == [(9, 13), (5, 13)]


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1"])
def test_png_values(tmp_path, stack, mode):
    array = stack[0].astype(np.uint16) if mode == "I;16" else stack[0] > 1 if mode == "1" else stack[0]
    image = Image.fromarray(array)
    if mode == "P":
        image.putpalette([10, 0, 0, 200, 0, 0, 0, 90, 0, 0, 0, 30])
    image.save(tmp_path / "a.png")
    (read,), size = read_images(tmp_path / "a.png")
    np.testing.assert_array_equal(read, array)
    assert size is None
    assert read.flags.writeable, "torch warns of what it shares and cannot write"


def test_folder_list_and_pattern_in_order_of_name(tmp_path, stack):
    for i in (2, 0, 1):
        save(tmp_path / f"{i}.tif", stack[i])
    (tmp_path / "notes.txt").write_text("not an image")
    pattern = str(tmp_path / "*.tif")
    for paths in (tmp_path, str(tmp_path), pattern, [tmp_path / f"{i}.tif" for i in range(3)], [tmp_path / "[01].tif", tmp_path / "2.tif"]):
        np.testing.assert_array_equal(read_images(paths)[0], stack)


def test_the_picture_beside_a_generated_stack_is_none_of_its_images(tmp_path, stack):
    save(tmp_path / "hr_generated.tif", stack)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "hr_generated.png")
    with pytest.raises(InputError, match="hr_generated.png: a colour image"):
        read_images(tmp_path)
    (tmp_path / "hr_generated_provenance.json").write_text('{"generated": true}')
    assert len(read_images(tmp_path)[0]) == 3
    assert len(read_images([tmp_path / "hr_generated.tif"])[0]) == 3


def test_a_super_resolved_volume_is_none_of_the_images_of_its_folder(tmp_path, stack):
    """Nor is the picture beside it, also where it lies in an OME-Zarr alone; who names the file means it."""
    save(tmp_path / "hr.tif", stack[:2])
    save(tmp_path / "rock_sr.tif", stack)
    save(tmp_path / "scan.tif", stack[:1])
    (tmp_path / "scan_provenance.json").write_text('{"microscope": "a"}')  # somebody else's record
    for name in ("rock_sr", "alone_sr"):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}_provenance.json").write_text('{"input": {}, "result": {}}')
    np.testing.assert_array_equal(read_images(tmp_path)[0], [*stack[:2], stack[0]])
    np.testing.assert_array_equal(read_images(tmp_path / "rock_sr.tif")[0], stack)
    (tmp_path / "hr.tif").unlink()
    (tmp_path / "scan.tif").unlink()
    with pytest.raises(InputError, match=r"no images \(.tif, .tiff, .png\) in this folder, results of this program aside"):
        read_images(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_record_that_is_none_is_one_line(tmp_path, stack, text):
    save(tmp_path / "a.tif", stack)
    (tmp_path / "a_provenance.json").write_text(text)
    with pytest.raises(InputError, match="a_provenance.json: cannot be read") as caught:
        read_images(tmp_path)
    assert "\n" not in str(caught.value)


def test_file_whose_name_looks_like_a_pattern(tmp_path, stack):
    np.testing.assert_array_equal(read_images(save(tmp_path / "a[1].tif", stack))[0], stack)


@pytest.mark.parametrize(
    ("given", "expected"), [(0.5, (0.5, 0.5)), ([0.5, 0.25], (0.5, 0.25)), ([0.5, 0.5, 0.5], (0.5, 0.5))]
)  # fmt: skip
def test_given_pixel_size_overrides(tmp_path, stack, given, expected):
    assert read_images(save(tmp_path / "a.tif", stack, 0.4375), given)[1] == expected


def test_a_given_pixel_size_is_not_that_of_images_made_with_another(tmp_path, stack):
    """It overrides what real files say, beside it in a list too, and what was made without a size; what was made knows its own."""
    real, made = save(tmp_path / "a.tif", stack, 0.875), save(tmp_path / "made.tif", stack, 0.875)
    (tmp_path / "made_provenance.json").write_text("{}")
    for paths in (made, [real, made]):
        with pytest.raises(InputError, match=r"made.tif: was made with pixels of 0.875 µm, but hr_voxel_size is 0.4375 µm; use images of one size"):
            read_images(paths, 0.4375)
    assert read_images([real, made], 0.876)[1] == (0.876, 0.876) and read_images(real, 0.4375)[1] == (0.4375, 0.4375)
    assert read_images(save(made, stack), 0.4375)[1] == (0.4375, 0.4375)


def test_unequal_or_wrong_pixel_sizes(tmp_path, stack):
    paths = [save(tmp_path / "a.tif", stack, 0.5), save(tmp_path / "b.tif", stack, 0.25)]
    with pytest.raises(InputError, match=r"b\.tif.*a\.tif.*hr_voxel_size"):
        read_images(paths)
    assert read_images(paths, 0.5)[1] == (0.5, 0.5)
    for bad in (-1, [1, 2, 3], "x"):
        with pytest.raises(InputError, match="hr_voxel_size"):
            read_images(paths[0], bad)


def test_nothing_to_read(tmp_path):
    cases = {"empty list": [], "in this folder": tmp_path, "pattern": tmp_path / "*.tif", "no such file": tmp_path / "a.tif",
             "no such file or folder": tmp_path / "nothere"}  # fmt: skip
    for what, paths in cases.items():
        with pytest.raises(InputError, match=what):
            read_images(paths)


def test_colour_damaged_and_unknown_files(tmp_path, stack):
    colour = np.repeat(stack[0][..., None], 3, axis=-1)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    tifffile.imwrite(tmp_path / "colour.tif", colour, photometric="rgb")
    for name in ("colour.png", "colour.tif"):
        with pytest.raises(InputError, match="colour"):
            read_images(tmp_path / name)
    (tmp_path / "colour.jpg").write_bytes(b"1")
    with pytest.raises(InputError, match=r"\.png"):
        read_images(tmp_path / "colour.jpg")
    Image.fromarray(stack[0]).save(tmp_path / "cut.png")
    save(tmp_path / "cut.tif", stack)
    for name in ("cut.png", "cut.tif"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: int(0.7 * len(data))])
        with pytest.raises(InputError, match="cut") as caught:
            read_images(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_real_images(shared_data):
    images, _ = read_images(shared_data / "berea" / "hr_real_0.4375um.tif")
    assert [a.shape for a in images] == [(1024, 1024)] * 4
    assert np.unique(images).tolist() == [0, 1, 2, 3]


def test_sizes_that_programs_round_are_the_same(tmp_path, stack):
    """ImageJ writes pixels in a centimetre as a whole number of millionths."""
    first = save(tmp_path / "a.tif", stack, 0.4375)
    second = tmp_path / "b.tif"
    tifffile.imwrite(second, stack, photometric="minisblack", resolution=((2285714, 1000000), (2285714, 1000000)), metadata={"unit": "um", "spacing": 1.0})
    assert read_images(second)[1] != (0.4375, 0.4375)
    images, size = read_images([first, second])
    assert len(images) == 6 and size == (0.4375, 0.4375)


def test_a_mosaic_is_no_attack(tmp_path, monkeypatch, stack):
    Image.fromarray(stack[0]).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # twice as many are refused
    (image,), _ = read_images(tmp_path / "a.png")
    np.testing.assert_array_equal(image, stack[0])
    assert Image.MAX_IMAGE_PIXELS == 20
