"""The simulated scan: every step against a closed form or a loop, and the errors that it is there to make."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from bundle.errors import InputError
from bundle.microct import Scanner, scan, scan_phantom, segment
from bundle.phantom import CLAY, FACTOR, HOST, PORE, SECOND, VOXEL, Phantom

PERFECT = Scanner(blur=0.0, photons=1e15, electronic=0.0, mottle=(0.0, 1.0), ring=0.0)


def whole(labels: np.ndarray):
    return [(tuple(slice(0, n) for n in labels.shape), labels)]


def scanned(labels: np.ndarray, scanner: Scanner, seed: int = 0) -> np.ndarray:
    return scan(whole(labels), tuple(n // FACTOR for n in labels.shape), scanner, seed)


def uniform(phase: int, size: int = 24) -> np.ndarray:
    return np.full((size * FACTOR,) * 3, phase, np.uint8)


def with_(**settings) -> Scanner:
    from dataclasses import replace

    return replace(PERFECT, **settings)


def test_without_blur_and_noise_a_voxel_is_the_mean_of_its_block():
    labels = np.random.default_rng(0).integers(0, 4, (16, 24, 8)).astype(np.uint8)
    grey = scanned(labels, PERFECT)
    for index in np.ndindex(2, 3, 1):
        block = labels[tuple(slice(FACTOR * i, FACTOR * (i + 1)) for i in index)]
        expected = sum(value * np.mean(block == phase) for phase, value in enumerate(PERFECT.attenuation))
        assert grey[index] == pytest.approx(expected, abs=1e-5)


def test_blocks_in_any_order_give_the_same_image():
    labels = np.random.default_rng(1).integers(0, 4, (16, 16, 16)).astype(np.uint8)
    noisy = with_(photons=500.0, mottle=(0.1, 10.0))
    places = [tuple(slice(8 * i, 8 * i + 8) for i in index) for index in np.ndindex(2, 2, 2)]
    blocks = [(place, labels[place]) for place in reversed(places)]
    np.testing.assert_allclose(scan(blocks, (2, 2, 2), noisy, 3), scanned(labels, noisy, 3), atol=1e-6)


def test_an_edge_is_blurred_to_an_error_function():
    labels = uniform(PORE)
    labels[:, :, labels.shape[2] // 2 :] = HOST
    profile = scanned(labels, with_(blur=1.5))[12, 12]
    x = np.arange(24) + 0.5 - 12  # coarse voxels from the edge
    # Point spread, then the mean over a voxel and over the cells of half a voxel on which it works.
    fine = np.linspace(-0.5, 0.5, 201)
    expected = [np.mean(0.5 * (1 + erf((centre + fine) / (1.5 * np.sqrt(2))))) for centre in x]
    np.testing.assert_allclose(profile, expected, atol=0.01)


@pytest.mark.parametrize("phase", [PORE, HOST])
def test_photon_noise_grows_with_attenuation(phase):
    """Delta method: the variance of -log(N / photons) is 1 / mean of N = exp(attenuation) / photons."""
    grey = scanned(uniform(phase), with_(photons=2000.0))
    attenuation = PERFECT.attenuation[phase]
    assert grey.mean() == pytest.approx(attenuation, abs=2e-3)
    assert grey.var() == pytest.approx(np.exp(attenuation) / 2000.0, rel=0.05)


def test_electronic_noise_is_added():
    grey = scanned(uniform(HOST), with_(electronic=0.05))
    assert grey.std() == pytest.approx(0.05, rel=0.03)


def test_only_the_second_mineral_is_mottled():
    spots = with_(mottle=(0.1, 6.0))
    assert scanned(uniform(HOST, 8), spots).std() < 1e-5
    assert scanned(uniform(SECOND), spots).std() == pytest.approx(0.1, rel=0.25)


def test_rings_turn_about_the_axis():
    grey = scanned(uniform(HOST, 12), with_(ring=0.05))
    assert np.allclose(grey, grey[:, ::-1], atol=1e-6) and np.allclose(grey, grey.transpose(0, 2, 1), atol=1e-6)
    assert grey[0].std() > 0.01 and not np.allclose(grey[0], grey[1])


def test_each_phase_alone_is_found():
    scanner = Scanner(attenuation=(0.0, 1.0, 1.3, 0.5), mottle=(0.0, 1.0))
    for phase in range(4):
        assert np.mean(segment(scanned(uniform(phase, 8), scanner), scanner) == phase) > 0.999


def test_a_pore_edge_gets_a_rim_of_clay_and_feldspar_is_lost_to_quartz():
    labels = uniform(HOST)
    labels[:, :, :64] = PORE
    labels[:, :, 64:68] = PORE  # the surface in the middle of a coarse voxel
    uncleaned = Scanner(support=0)
    assert np.mean(segment(scanned(labels, uncleaned, 1), uncleaned)[2:-2, 2:10, 8] == CLAY) > 0.9
    feldspar = np.stack([segment(scanned(uniform(SECOND), Scanner(), seed)) for seed in range(4)])
    assert 0.05 < np.mean(feldspar == HOST) < 0.9 and np.isin(feldspar, (HOST, SECOND)).all()  # even where it is sound


def test_a_lone_voxel_is_cleaned_away_and_a_slab_is_not():
    grey = np.ones((12, 12, 12), np.float32)
    grey[6, 6, 6] = 0.0
    sharp = with_(smoothing=0.0)
    assert (segment(grey, sharp) == HOST).all()
    grey[:, :, :4] = 0.0
    assert (segment(grey, sharp)[:, :, :4] == PORE).all()


def test_confusion_counts_majority_against_label():
    phantom = Phantom(2, 8 * 3.5)
    result = scan_phantom(phantom, (4, 3, 5), seed=2, keep=True)
    assert result.truth.shape == (32, 24, 40) and result.labels.dtype == np.uint8
    expected = np.zeros((4, 4), int)
    for index in np.ndindex(4, 3, 5):
        block = result.truth[tuple(slice(FACTOR * i, FACTOR * (i + 1)) for i in index)]
        expected[np.bincount(block.ravel(), minlength=4).argmax(), result.labels[index]] += 1
    np.testing.assert_array_equal(result.confusion, expected)


def test_the_truth_is_the_phantom_and_is_kept_on_demand_only():
    phantom = Phantom(2, 4 * 3.5)
    assert np.mean(scan_phantom(phantom, (2, 2, 2), keep=True).truth != phantom.labels((VOXEL / 2,) * 3, (16, 16, 16))) < 1e-3
    assert scan_phantom(phantom, (2, 2, 2)).truth is None


def test_a_flat_image_is_refused():
    with pytest.raises(InputError, match="2D: give a volume"):
        segment(np.zeros((4, 4), np.float32))
