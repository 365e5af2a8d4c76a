"""Sentences of the report: each says what hand-made numbers say, and no more."""

import pytest

from bundle.verdicts import number, percent, plus_minus, verdicts

PHASES = ["pore", "quartz", "feldspar"]
# name: (HR mean, HR min, HR max, LR, SR)
ROWS = {
    "pore": (0.20, 0.15, 0.30, 0.22, 0.21),  # inside, nearer
    "quartz": (0.70, 0.60, 0.80, 0.77, 0.76),
    "feldspar": (0.10, 0.045, 0.160, 0.010, 0.031),  # below, by less than the spread
    "pore-quartz": (0.010, 0.009, 0.012, 0.005, 0.009),
    "pore-feldspar": (0.004, 0.003, 0.005, 0.0039, 0.0050),  # farther
    "quartz-feldspar": (0.0, 0.0, 0.0, 0.002, 0.002),  # equal, without a relative error
}


def result(images: int = 4, **changes) -> dict:
    rows = {n: dict(zip(("hr", "hr_min", "hr_max", "lr", "sr"), v, strict=True)) for n, v in {**ROWS, **changes.pop("rows", {})}.items()}
    summary = {
        "hr_images": images,
        "statistics": rows,
        "mean_relative_error": {"lr": 0.661, "sr": 0.259},
        "hr_noise": {"leave_one_out": [0.4], "bootstrap_median": 0.16, "bootstrap_95": 0.40},
        **changes.pop("summary", {}),
    }
    lag = [0.0, 1.0, 2.0, 3.0]
    band = {"lag": lag, "min": [[0.1] * 4] * 3, "max": [[0.2] * 4] * 3}
    curves = {"HR": band, "SR": {"lag": [*lag, 4.0], "mean": [[0.15] * 5, [0.15, 0.15, 0.25, 0.15, 9.0], [0.3] * 5]}}
    agreement = {
        "confusion": [[999, 1, 0], [10, 880, 110], [0, 0, 0]],
        "kept": {"pore": 0.999, "quartz": 0.88, "feldspar": None},
        "all": 0.9395,
    }
    part = {"groups": {"all planes": summary}, "two_point": {"all planes": curves}}
    return {"phases": PHASES, **part, "lr_agreement": agreement, "staircase": {"labels": [0, 1], "voxels": 900, "share": 0.3}, **changes}


def said(found: dict, words: str) -> tuple[str, str]:
    """Mark and text of the one verdict that has these words."""
    (one,) = [verdict for verdict in verdicts(found) if words in verdict.text]
    return tuple(one)


def test_numbers_have_no_zero_before_the_point():
    assert [number(v) for v in (0.045, -0.0312, 0.00067449, 1.5, 1234.4, 0, 1e-7)] == [
        ".0450", "-.0312", ".000674", "1.50", "1234", "0", ".000000100",
    ]  # fmt: skip


def test_mean_and_deviation_have_the_same_decimals():
    assert [plus_minus(*v) for v in ((0.00702, 0.0014), (0.2239, 0.00091), (0.5, 0.0), (12.34, 5.0), (0.0, 0.0))] == [
        ".00702 ± .00140", ".2239 ± .0009", ".500 ± .000", "12.3 ± 5.0", "0 ± 0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("share", "text"),
    [(1, "100.0 %"), (0, "0.0 %"), (0.99999, "over 99.9 %"), (0.00001, "under 0.1 %"), (0.9994, "99.9 %"), (1.379, "137.9 %"), (0.99951, "over 99.9 %")],
)
def test_a_share_is_rounded_to_all_or_nothing_only_where_it_is(share, text):
    assert percent(share) == text


def test_a_half_is_not_rounded_to_all_or_nothing():
    assert [percent(share, 0) for share in (0.995, 0.005, 0.994, 0.006)] == ["over 99 %", "under 1 %", "99 %", "1 %"]


def test_fraction_inside_and_outside_the_spread_of_the_images():
    mark, text = said(result(), "feldspar fraction")
    assert mark == "warn" and text.startswith("The feldspar fraction of SR, .0310, lies outside the spread of the 4 HR images (.0450 to .160; LR .0100)")
    assert "by chance in 2 of 5 cases" in text
    assert said(result(), "pore fraction") == (
        "good", "The pore fraction of SR, .210, lies within the spread of the 4 HR images (.150 to .300; LR .220).",
    )  # fmt: skip


def test_far_outside_is_bad():
    wide = {"feldspar": (0.10, 0.09, 0.11, 0.01, 0.131)}
    mark, text = said(result(rows=wide), "feldspar fraction")
    assert mark == "bad" and "farther than that is wide" in text
    assert said(result(rows={"feldspar": (0.10, 0.09, 0.11, 0.01, 0.129)}), "feldspar fraction")[0] == "warn"


def test_the_edges_of_the_spread_belong_to_it():
    for edge in (0.045, 0.160):
        assert said(result(rows={"feldspar": (0.10, 0.045, 0.160, 0.01, edge)}), "feldspar fraction")[0] == "good"


def test_values_that_differ_are_not_written_alike():
    text = said(result(rows={"feldspar": (0.10, 0.045, 0.160, 0.01, 0.044999)}), "feldspar fraction")[1]
    assert "of SR, .044999, lies outside" in text and "(.045000 to " in text


def test_areas_outside_the_spread_are_named():
    inside = {"quartz-feldspar": (0.001, 0.001, 0.003, 0.0, 0.002)}
    assert said(result(rows=inside), "interfacial areas") == ("good", "3 of 3 interfacial areas of SR lie within the spread of the 4 HR images.")
    mark, text = said(result(), "interfacial areas")
    assert mark == "warn" and text.startswith("2 of 3 interf") and text.endswith("outside: quartz-feldspar (SR .00200, HR 0 to 0).")
    mark, text = said(result(rows={"pore-quartz": (0.010, 0.009, 0.012, 0.005, 0.0121)}), "interfacial areas")
    assert mark == "warn" and "pore-quartz (SR .0121, HR .00900 to .0120), quartz-feldspar" in text
    mark, _ = said(result(rows={"pore-quartz": (0.010, 0.009, 0.012, 0.005, 0.0151)}), "interfacial areas")
    assert mark == "bad"  # most of them farther than the spread is wide
    by_chance = {"pore-quartz": (0.010, 0.009, 0.012, 0.005, 0.0149), "quartz-feldspar": (0.001, 0.001, 0.003, 0.0, 0.004)}
    mark, text = said(result(rows=by_chance), "interfacial areas")
    assert mark == "warn" and text.endswith("; one more image of the same kind would lie outside in each by chance in 2 of 5 cases.")
    assert not [v for v in verdicts(result(images=1)) if "interfacial" in v.text]


def test_trust_is_told_where_there_is_one():
    found = result() | {"trust": {"mean": 0.8123, "sure": 0.5, "overlay": True}}
    mark, text = said(found, "right with a chance")
    assert mark == "note" and "chance of 81.2 %, 50.0 % of the voxels with 90 % or more" in text
    assert not [v for v in verdicts(result()) if "right with a chance" in v.text]


def test_one_image_has_no_spread():
    found = result(images=1)
    assert said(found, "With one HR image nothing can be said about the spread")[0] == "note"
    assert not [v for v in verdicts(found) if "fraction" in v.text or "two-point" in v.text]
    assert "quarters of the one image" in said(found, "noise of the images")[1]


def test_nearer_names_what_is_farther_with_its_numbers():
    mark, text = said(result(), "nearer to the mean")
    assert mark == "warn" and "nearer to the mean of the HR images than LR in 4 of 6 statistics, as near in 1" in text
    assert "farther in: pore-feldspar (LR .00390, SR .00500, HR .00400)." in text
    good = {"pore-feldspar": (0.004, 0.003, 0.005, 0.0, 0.004)}
    mark, text = said(result(rows=good), "nearer to the mean")
    assert mark == "good" and "in 5 of 6" in text and "farther" not in text
    worse = {name: (*row[:3], row[0], row[3]) for name, row in ROWS.items()}
    assert said(result(rows=worse), "nearer to the mean")[0] == "bad"


def test_nearest_neighbour_is_no_better_than_lr():
    same = {name: (*row[:4], row[3]) for name, row in ROWS.items()}
    found = result(rows=same, summary={"mean_relative_error": {"lr": 0.5, "sr": 0.5}})
    assert said(found, "nearer to the mean")[0] == "warn" and "in 0 of 6 statistics, as near in 6." in said(found, "nearer to the mean")[1]
    mark, text = said(found, "off the mean")
    assert mark == "bad" and "by 50.0 %, no less than LR, which is off by 50.0 %" in text


def test_error_against_lr_and_against_the_noise():
    mark, text = said(result(), "off the mean")
    assert (mark, text) == ("good", "In the mean of 5 statistics SR is off the mean of the HR images by 25.9 %, less than LR, which is off by 66.1 %.")
    mark, text = said(result(), "noise of the images")
    assert mark == "good" and "is not larger than" in text and "16.0 % in the median, 40.0 % at the 95th" in text
    mark, text = said(result(summary={"mean_relative_error": {"lr": 0.6, "sr": 0.401}}), "noise of the images")
    assert mark == "warn" and "(40.1 %) is larger than" in text
    assert not [v for v in verdicts(result(summary={"hr_noise": None})) if "noise of the images" in v.text]
    nothing = result(summary={"mean_relative_error": {"lr": None, "sr": None}})
    assert said(nothing, "no relative error")[0] == "note"


def test_kept_voxels_and_what_became_of_the_others():
    assert said(result(), "LR pore is kept in") == ("good", "LR pore is kept in 99.9 % of its 1,000 voxels (majority of the SR voxels in each).")
    assert said(result(), "LR holds no feldspar.")[0] == "note"
    lost = {"confusion": [[4, 6], [0, 9]], "kept": {"pore": 0.4, "quartz": 1.0}, "all": 13 / 19}
    assert said(result(lr_agreement=lost), "LR pore is kept in")[0] == "bad"
    some = {"confusion": [[990, 10], [110, 880]], "kept": {"pore": 0.99, "quartz": 880 / 990}, "all": 0.94}
    mark, text = said(result(lr_agreement=some), "LR quartz is kept in")
    assert mark == "warn" and "88.9 % of its 990 voxels" in text and text.endswith("most of the others became pore (110).")


def test_what_the_scan_does_not_know_is_not_held_against_the_result():
    mark, text = said(result(), "LR quartz is kept in")
    assert mark == "good" and "88.0 % of its 1,000 voxels" in text
    assert text.endswith("most of the others became feldspar (110); LR holds no feldspar: without what became feldspar 98.9 % are kept.")
    gone = {"confusion": [[300, 100, 600], [0, 0, 1000], [0, 0, 0]], "kept": {"pore": 0.3, "quartz": 0.0, "feldspar": None}, "all": 0.15}
    assert said(result(lr_agreement=gone), "LR pore is kept in")[0] == "warn"  # three quarters of the others
    assert said(result(lr_agreement=gone), "LR quartz is kept in")[0] == "bad"  # nothing is left of it
    mixed = {"confusion": [[900, 100, 0], [60, 900, 40], [0, 0, 0]], "kept": {"pore": 0.9, "quartz": 0.9, "feldspar": None}, "all": 0.9}
    mark, text = said(result(lr_agreement=mixed), "LR quartz is kept in")
    assert mark == "warn" and text.endswith("became pore (60); LR holds no feldspar: without what became feldspar 93.8 % are kept.")
    assert said(result(lr_agreement=mixed), "LR pore is kept in")[1].endswith("became quartz (100).")  # nothing of it became feldspar


def test_a_surface_that_follows_the_voxels_of_the_scan():
    assert said(result(), "voxels of LR part") == (
        "good",
        "Where a smooth surface between pore and quartz and the voxels of LR part, SR follows the voxels at 30 % of the places; the truth of synthetic"
        " rock does at about 30 %.",
    )
    assert said(result(staircase={"labels": [0, 2], "voxels": 900, "share": 0.58}), "between pore and feldspar")[0] == "warn"
    none = result(staircase={"labels": [0, 0], "voxels": 0, "share": None})
    assert not [verdict for verdict in verdicts(none) if "voxels of LR part" in verdict.text]


def test_curves_count_the_distances_inside_the_band():
    # The fifth distance of SR is beyond the images: it does not count.
    assert said(result(), "two-point curve of pore") == (
        "good", "The two-point curve of pore of SR lies in the band of the 4 HR images at 100 % of the distances.",
    )  # fmt: skip
    mark, text = said(result(), "two-point curve of quartz")
    assert mark == "warn" and "at 75 % of the distances" in text
    assert "at 0 % of the distances" in said(result(), "two-point curve of feldspar")[1]


def test_seeds():
    assert said(result(), "one seed of the noise")[0] == "note"
    found = result(summary={"seeds": {"number": 3, "mean_relative_error": [0.2, 0.3, 0.4]}})
    rows = found["groups"]["all planes"]["statistics"]
    values = {"pore": [0.19, 0.2, 0.21], "quartz": [0.59, 0.7, 0.81], "feldspar": [0.05, 0.1, 0.15]}
    for phase, (mean, std) in zip(PHASES, ((0.2, 0.01), (0.7, 0.11), (0.1, 0.05)), strict=True):
        rows[phase].update(sr_mean=mean, sr_std=std, sr_values=values[phase])
    assert "is 30.0 % ± 10.0 % (20.0 % to 40.0 %); the lines" in said(found, "Over 3 seeds the mean relative error")[1]
    assert said(found, "Over 3 seeds the pore fraction") == (
        "good", "Over 3 seeds the pore fraction of SR is .200 ± .010, varying by 5.0 % of it; within the spread of the HR images with 3 of 3 seeds.",
    )  # fmt: skip
    # steady, but outside with two seeds; inside with all, but not steady
    mark, text = said(found, "Over 3 seeds the quartz fraction")
    assert mark == "warn" and "varying by 15.7 %" in text and "with 1 of 3 seeds." in text
    mark, text = said(found, "Over 3 seeds the feldspar fraction")
    assert mark == "warn" and ".100 ± .050, varying by 50.0 %" in text and "with 3 of 3 seeds." in text
    assert said(found, "The pore fraction of SR (the seed shown)")[0] == "good"
    assert not [v for v in verdicts(found) if "one seed of the noise" in v.text]
    found["groups"]["all planes"]["hr_images"] = 1
    assert said(found, "Over 3 seeds the quartz fraction") == (
        "good", "Over 3 seeds the quartz fraction of SR is .700 ± .110, varying by 15.7 % of it.",
    )  # fmt: skip


def test_planes_are_named_where_there_are_several():
    found = result()
    found["groups"]["yz"] = found["groups"]["all planes"]
    found["two_point"]["yz"] = found["two_point"]["all planes"]
    assert said(found, "yz: The pore fraction")[0] == "good"
    assert not [v for v in verdicts(result()) if "all planes" in v.text]


def test_lr_that_sr_was_not_made_from():
    def provenance(found: str) -> dict:
        return {"inference": {"input": {"labels_sha256": "ab" * 32}}, "files": {"lr_image": {"labels_sha256": found}}}

    assert said(result(provenance=provenance("ab" * 32)), "checksum")[0] == "good"
    mark, text = said(result(provenance=provenance("cd" * 32)), "checksum")
    assert mark == "bad" and "abababababab" in text and "cdcdcdcdcdcd" in text
    assert not [v for v in verdicts(result(provenance={"inference": None})) if "checksum" in v.text]
