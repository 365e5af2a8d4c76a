"""The synthetic rock, and the shipped sample that it made."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from bundle.phantom import (
    CLAY, FACTOR, FELDSPAR, LATTICE, PORE, QUARTZ, VOXEL, Phantom, coarse_fractions, low_resolution, sections, segment, smooth_noise,
)  # fmt: skip
from scripts.make_sample import make


@pytest.fixture(scope="module")
def rock() -> Phantom:
    return Phantom(3, 60.0)


def test_noise_is_a_cubic_spline_through_white_noise():
    white = np.random.default_rng((7, 1)).standard_normal((LATTICE,) * 3, dtype=np.float32)
    nodes = np.stack(np.meshgrid(np.arange(4), np.arange(5), np.arange(90, 100), indexing="ij")) + 1  # crosses the period
    expected = ndimage.map_coordinates(white, nodes, order=3, prefilter=False, mode="grid-wrap") / (np.sqrt(18) / 6) ** 3
    noise = smooth_noise((7, 1), np.array([0.0, 0.0, 90 * 2.5]), (4, 5, 10), 2.5, 2.5)
    np.testing.assert_allclose(noise, expected, atol=1e-4)


def test_noise_has_unit_variance_between_the_nodes_too():
    noise = smooth_noise((0, 5), np.array([0.5, 0.25, 0.1]), (LATTICE,) * 3, 1.0, 1.0)
    assert abs(noise.mean()) < 0.03 and abs(noise.var() - 1) < 0.03


def test_blocks_tile_the_volume_seamlessly(rock):
    whole = rock.labels((VOXEL / 2,) * 3, (40, 24, 33))
    tiled = np.full(whole.shape, 255, np.uint8)
    for place, labels in rock.blocks(whole.shape, block=16):
        tiled[place] = labels
    assert np.mean(tiled != whole) < 1e-4


def test_a_section_is_the_rock_it_cuts(rock):
    volume = rock.labels((VOXEL / 2,) * 3, (9, 32, 32))
    section = rock.labels((VOXEL * 6.5, VOXEL / 2, VOXEL / 2), (1, 32, 32))
    assert np.mean(volume[6] != section[0]) < 1e-3


def test_coarse_fractions_are_block_means(rock):
    fine = rock.labels((VOXEL / 2,) * 3, (16, 16, 24))
    fractions = coarse_fractions(rock, (2, 2, 3))
    for index in np.ndindex(2, 2, 3):
        block = fine[tuple(slice(FACTOR * i, FACTOR * (i + 1)) for i in index)]
        np.testing.assert_allclose(fractions[(slice(None), *index)], np.bincount(block.ravel(), minlength=4) / block.size, atol=1e-3)


def pure(**shares: float) -> np.ndarray:
    """Fractions of a uniform rock, (4, 40, 40, 40)."""
    names = ("pore", "quartz", "feldspar", "clay")
    return np.stack([np.full((40,) * 3, shares.get(name, 0.0), np.float32) for name in names])


def test_segmentation_errors_are_those_of_the_scan():
    def labelled(fractions):
        return np.bincount(segment(fractions, 0, (1.75,) * 3).ravel(), minlength=4) / 40**3

    assert labelled(pure(pore=1))[PORE] > 0.99
    assert labelled(pure(quartz=1))[QUARTZ] > 0.98
    feldspar = labelled(pure(feldspar=1))
    assert 0.15 < feldspar[FELDSPAR] < 0.4 and feldspar[QUARTZ] > 0.55  # most of it passes for quartz
    assert labelled(pure(pore=0.6, clay=0.4))[CLAY] > 0.95  # a sponge passes for solid clay
    assert labelled(pure(pore=0.5, quartz=0.5))[CLAY] > 0.05  # and so does some of a blurred edge


def test_same_seed_same_bytes(tmp_path):
    for folder, seed in (("a", 5), ("b", 5), ("c", 6)):
        make(seed, tmp_path / folder, lr_size=4, hr_size=48, images=2)
    for name in ("lr.tif", "hr.tif"):
        first, again, other = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert first == again
        assert first != other


def test_shipped_files_carry_their_voxel_size(sample_paths):
    assert sum(path.stat().st_size for path in sample_paths.values()) < 2e6
    for name, shape, voxel in (("lr", (64, 64, 64), 3.5), ("hr", (4, 512, 512), 0.4375)):
        with tifffile.TiffFile(sample_paths[name]) as file:
            assert file.series[0].shape == shape and file.series[0].dtype == np.uint8
            assert file.imagej_metadata["unit"] == "um"
            for tag in ("XResolution", "YResolution"):
                numerator, denominator = file.pages[0].tags[tag].value
                assert denominator / numerator == voxel
            assert file.imagej_metadata["spacing"] == voxel


def test_shipped_sample_is_like_the_real_rock(sample):
    lr, hr = (np.bincount(sample[name].ravel(), minlength=4) / sample[name].size for name in ("lr", "hr"))
    assert len(lr) == len(hr) == 4
    assert 0.12 < lr[PORE] < 0.26 and 0.12 < hr[PORE] < 0.26
    assert 0.08 < hr[FELDSPAR] < 0.18 and lr[FELDSPAR] < 0.5 * hr[FELDSPAR]
    assert 0.015 < hr[CLAY] < 0.045 and 1.5 < lr[CLAY] / hr[CLAY] < 2.5


def test_shipped_sample_is_what_the_code_makes(sample):
    # A last bit of exp or sin may differ between processors: a few voxels on a surface may flip.
    assert np.mean(sections(0, 1)[0] == sample["hr"][0]) > 0.9999
    corner = segment(coarse_fractions(Phantom(0, 64 * 3.5), (8, 8, 8)), 0, (1.75,) * 3)
    assert np.mean(corner[:7, :7, :7] == sample["lr"][:7, :7, :7]) > 0.98  # the blur reaches one voxel in


def test_low_resolution_is_uint8_of_the_size_asked():
    volume = low_resolution(1, 4)
    assert volume.shape == (4, 4, 4) and volume.dtype == np.uint8 and volume.max() < 4
