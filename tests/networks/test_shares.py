"""How much of each LR label is another phase."""

from __future__ import annotations

import numpy as np
import pytest

from bundle.errors import InputError
from bundle.networks.shares import MOST, corrected_fractions, hidden_shares, rim_labels

NAMES = ["pore", "quartz", "feldspar", "clay"]
NOTHING = [[0.0, 0.0], [0.0, 0.0]]


def test_as_much_returns_as_the_images_hold_more():
    """Quartz 0.6 hides 0.09 of feldspar, which is 0.15 of it; of clay the LR has more than the images."""
    lr, hr = [0.2, 0.6, 0.05, 0.15], [0.18, 0.56, 0.14, 0.12]
    shares = hidden_shares(NAMES, {"quartz": "feldspar", "pore": "clay"}, lr, hr)
    expected = np.zeros((4, 4))
    expected[1, 2] = 0.15
    np.testing.assert_allclose(shares, expected, rtol=1e-12)
    assert corrected_fractions(lr, shares) == pytest.approx([0.2, 0.51, 0.14, 0.15])


def test_corrected_fractions_are_those_of_the_images():
    """Whatever the rock, as long as no more than half of a label turns; two labels may hide a phase each."""
    draw = np.random.default_rng(0)
    turned = 0
    for _ in range(50):
        lr, hr = (draw.dirichlet(np.full(4, 8.0)) for _ in range(2))
        shares = np.array(hidden_shares(NAMES, {"quartz": "feldspar", "clay": "pore"}, lr, hr))
        found = corrected_fractions(lr, shares)
        assert sum(found) == pytest.approx(1)
        for label, phase in ((1, 2), (3, 0)):
            assert found[phase] == pytest.approx(max(lr[phase], hr[phase])) or shares[label, phase] == MOST
            assert found[label] == pytest.approx(lr[label] - (found[phase] - lr[phase]))
            turned += 0 < shares[label, phase] < MOST
            shares[label, phase] = 0
        assert (shares == 0).all()
    assert turned > 20


def test_labels_that_hide_the_same_phase_give_the_same_share_of_themselves():
    """0.12 of feldspar is missing, and 0.6 of the rock may hide it: a fifth of each, and no more in all than is missing."""
    lr, hr = [0.2, 0.4, 0.02, 0.38], [0.1, 0.4, 0.14, 0.36]
    shares = hidden_shares(NAMES, {"pore": "feldspar", "quartz": "feldspar", "feldspar": "feldspar"}, lr, hr)
    np.testing.assert_allclose(shares, [[0, 0, 0.2, 0], [0, 0, 0.2, 0], [0, 0, 0, 0], [0, 0, 0, 0]], rtol=1e-12)
    assert corrected_fractions(lr, shares) == pytest.approx([0.16, 0.32, 0.14, 0.38])


def test_never_more_than_half_of_a_label():
    shares = hidden_shares(NAMES, {"quartz": "feldspar"}, [0.5, 0.1, 0.0, 0.4], [0.1, 0.1, 0.7, 0.1])
    assert shares[1][2] == MOST == 0.5
    assert corrected_fractions([0.5, 0.1, 0.0, 0.4], shares) == pytest.approx([0.5, 0.05, 0.05, 0.4])
    assert hidden_shares(NAMES, {"quartz": "feldspar"}, [0.5, 0.0, 0.1, 0.4], [0.1, 0.1, 0.7, 0.1])[1][2] == MOST  # of nothing


def test_names_that_are_no_labels_are_left_out():
    """So a table serves several rocks; the HR may know more phases than the LR."""
    lr, hr = [0.9, 0.1], [0.5, 0.2, 0.2, 0.1]
    for hidden in ({}, {"pore": "feldspar"}, {"clay": "quartz"}, {"mica": "quartz"}, {"quartz": "quartz"}):
        assert hidden_shares(NAMES[:2], hidden, lr, hr) == NOTHING, hidden
    assert hidden_shares(NAMES[:2], {"pore": "quartz", "clay": "pore"}, lr, hr) == [[0.0, pytest.approx(0.1 / 0.9)], [0.0, 0.0]]


def test_fractions_of_a_matrix_of_shares():
    """By hand: 0.1 of label 0 and 0.3 of label 1 turn into label 2, 0.2 of label 2 into label 0."""
    shares = [[0.0, 0.0, 0.1], [0.0, 0.0, 0.3], [0.2, 0.0, 0.0]]
    assert corrected_fractions([0.5, 0.3, 0.2], shares) == pytest.approx([0.5 - 0.05 + 0.04, 0.3 - 0.09, 0.2 + 0.05 + 0.09 - 0.04])


@pytest.mark.parametrize(
    ("hidden", "rims", "line"),
    [
        ({"quartz": "feldspar"}, {"clay": "pore"}, "hidden: 15.0 % of quartz returns as feldspar; rims: 13.3 % of clay turns to pore"),
        ({"clay": "pore"}, None, "hidden: 0.0 % of clay returns as pore"),
        ({"mica": "quartz", "quartz": "mica"}, {"solid": "pore"}, "hidden, rims: nothing acts on these phases"),
    ],
)
def test_the_log_says_what_acts(caplog, hidden, rims, line):
    hr = [0.18, 0.56, 0.14, 0.12] if hidden.get("clay") else [0.22, 0.54, 0.14, 0.1]
    with caplog.at_level("INFO"):
        hidden_shares(NAMES, hidden, [0.2, 0.6, 0.05, 0.15], hr, rims)
    assert caplog.messages == [line]


def test_rims_turn_as_far_as_both_sides_want_it():
    """What the scan lacks of the phase or has of the label beyond the images, whichever is less; nothing where either is the other way round."""
    lr = [0.17, 0.75, 0.03, 0.05]
    for hr, share in (
        ([0.19, 0.68, 0.107, 0.023], 0.02 / 0.05),  # 0.02 of pore missing, 0.027 of clay too much
        ([0.25, 0.62, 0.09, 0.04], 0.01 / 0.05),  # 0.08 missing, 0.01 too much
        ([0.25, 0.65, 0.1, 0.0], 1.0),
        ([0.16, 0.72, 0.1, 0.02], 0.0),
        ([0.2, 0.63, 0.1, 0.07], 0.0),
    ):
        shares = np.array(hidden_shares(NAMES, {"quartz": "feldspar"}, lr, hr, {"clay": "pore", "mica": "pore", "pore": "mica"}))
        assert shares[3, 0] == pytest.approx(share), hr
        assert shares[1, 2] == pytest.approx((hr[2] - 0.03) / 0.75) and np.count_nonzero(shares) == 1 + (share > 0)
        assert corrected_fractions(lr, shares)[0] == pytest.approx(0.17 + 0.05 * share)
        fewer = hidden_shares(NAMES, {"quartz": "feldspar"}, lr, hr, {"clay": "pore"}, 0.3)
        assert fewer[3][0] == pytest.approx(0.3 * share) and fewer[1] == shares[1].tolist()  # what hides is not rims
    assert rim_labels(NAMES, {"clay": "pore", "mica": "pore"}) == [3] and rim_labels(NAMES, None) == []
    with pytest.raises(InputError, match="rims: clay cannot hide a phase and be rims as well"):
        hidden_shares(NAMES, {"clay": "pore"}, lr, lr, {"clay": "pore"})
