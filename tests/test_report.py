"""Pictures and table: what they show is checked in the pixels and in the text."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from bundle import report
from bundle.metrics import statistic_names, summarise

PHASES = ["pore", "quartz", "clay"]


def share(picture: np.ndarray, colour: str) -> float:
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return float((picture[..., :3] == rgb).all(-1).mean())


def summary(lr=(0.5, 0.25, 0.25, 0.1, 0.1, 0.02), sr=(0.3, 0.5, 0.2, 0.2, 0.1, 0.0)) -> dict:
    hr = np.array([[0.2, 0.6, 0.2, 0.2, 0.1, 0.0], [0.4, 0.4, 0.2, 0.2, 0.1, 0.0]])
    return summarise(statistic_names(PHASES), hr, np.array(lr), np.array(sr))


def test_labels_get_the_phase_colours():
    np.testing.assert_array_equal(report.colour_labels(np.array([[0, 1]], np.uint8)), [[[0, 0, 0], [0xC8, 0xB4, 0x8C]]])
    assert report.colour_labels(np.array([[250]], np.uint8)).shape == (1, 1, 3)


def test_middle_slices_are_the_planes_by_name():
    volume = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    slices = report.middle_slices(volume)
    np.testing.assert_array_equal(slices["xy"], volume[1])
    np.testing.assert_array_equal(slices["xz"], volume[:, 2])
    np.testing.assert_array_equal(slices["yz"], volume[:, :, 2])


def test_slices_show_all_columns_at_one_scale(tmp_path):
    lr = np.ones((4, 4, 4), np.uint8)
    lr[:, :, 2:] = 2
    sr = lr.repeat(4, 0).repeat(4, 1).repeat(4, 2)
    hr = np.zeros((64, 64), np.uint8)
    hr[24:40, 24:40] = 1  # the centre, as large as SR: nothing around it is shown
    columns = {"LR": (report.middle_slices(lr), (4.0,) * 3), "SR": (report.middle_slices(sr), (1.0,) * 3), "HR": ({"xy": hr}, (1.0,) * 3)}
    report.plot_slices(tmp_path / "new" / "slices.png", columns, PHASES)
    picture = np.asarray(Image.open(tmp_path / "new" / "slices.png"))
    thirds = [picture[:, i * picture.shape[1] // 3 : (i + 1) * picture.shape[1] // 3] for i in range(3)]
    quartz, clay = report.PHASE_COLOURS[1:3]
    np.testing.assert_allclose(share(thirds[0], quartz), share(thirds[1], quartz), rtol=0.15)  # the scale bar covers some of LR
    np.testing.assert_allclose(share(thirds[0], clay), share(thirds[1], clay), rtol=0.15)
    assert share(thirds[1], quartz) > 0.25 and share(thirds[1], clay) > 0.25
    assert share(thirds[2], quartz) > 0.2 and share(thirds[2], clay) < 0.02 and share(thirds[2], "#000000") < 0.05
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["slices.png"]


def test_voxels_of_a_box_are_drawn_to_scale(tmp_path):
    box = np.zeros((4, 8, 16), np.uint8)  # 8 x 8 x 16 µm
    box[..., :8] = 1  # a square of 8 µm in xy and xz
    column = (report.middle_slices(box), (2.0, 1.0, 1.0))
    report.plot_slices(tmp_path / "box.png", {"LR": column, "SR": column}, PHASES)
    picture = np.asarray(Image.open(tmp_path / "box.png"))[..., :3]
    quartz = (picture == report.colour_labels(np.array(1))).all(-1)
    squares = [square for square in ndimage.find_objects(ndimage.label(quartz)[0]) if square[0].stop - square[0].start > 50]
    assert len(squares) == 4  # two planes, two columns
    for rows, columns in squares:
        assert abs((rows.stop - rows.start) - (columns.stop - columns.start)) <= 4


def test_two_point_and_statistics_are_drawn_in_the_colours_of_lr_sr_hr(tmp_path):
    lag = np.linspace(0, 60, 20)
    mean = np.exp(-lag / 20)[None] * np.array([[0.2], [0.5], [0.3]])
    curves = {name: {"lag": lag, "mean": mean * factor} for name, factor in (("HR", 1.0), ("SR", 0.9), ("LR", 0.5))}
    curves["HR"].update(min=mean * 0.8, max=mean * 1.2)
    report.plot_two_point(tmp_path / "curves.png", {"xy": curves, "yz": curves}, PHASES)
    report.plot_statistics(tmp_path / "bars.png", {"all planes": summary()}, PHASES)
    for name in ("curves.png", "bars.png"):
        picture = np.asarray(Image.open(tmp_path / name))
        for source in ("LR", "SR"):
            assert share(picture, report.LINE_STYLES[source]["color"]) > 0.0005, (name, source)


def test_names_of_many_areas_do_not_lie_on_each_other():
    names = [f"mineral {i}" for i in range(8)]
    hr = np.random.default_rng(0).random((3, 36))
    figure = report.statistics_figure({"all planes": summarise(statistic_names(names), hr, hr[0], hr[1])}, names)
    figure.draw_without_rendering()
    for panel in figure.axes:
        label = panel.get_xticklabels()[0]
        step = np.diff(panel.transData.transform([(0, 1), (1, 1)])[:, 0])[0]
        assert step * np.sin(np.radians(label.get_rotation())) > label.get_fontsize() * figure.dpi / 72  # between lines of text


def test_table_has_every_statistic_the_errors_and_what_was_left_out():
    text = report.format_table(summary())
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert lines["pore"].split()[1:] == ["0.30000", "0.14142", "0.50000", "0.30000", "66.7%", "0.0%"]
    assert lines["quartz-clay"].split()[1:] == ["0.00000", "0.00000", "0.02000", "0.00000", "-", "-"]
    # LR: 2/3, 1/2, 1/4, 1/2, 0; SR exact.
    assert lines["mean relative error"].split()[-2:] == ["38.3%", "0.0%"]
    assert "left out of the mean, 0 in HR: quartz-clay" in text
    assert "noise of the HR images" in text


@pytest.mark.parametrize(("width", "length"), [(0.3, 0.1), (3.0, 1.0), (2.9, 0.5), (29.0, 5.0), (6.1, 2.0), (300.0, 100.0), (0.06, 0.02), (1500.0, 500.0)])
def test_a_scale_bar_is_a_round_part_of_the_width(width, length):
    """0.3 / 3 is a hair below 0.1, whose logarithm is -1 all the same."""
    assert report.bar_length(width) == pytest.approx(length)


def test_agreement_line_leaves_out_no_phase():
    line = report.format_agreement({"kept": {"pore": 0.914, "clay": None}, "all": 0.5})
    assert "pore 91.4%, clay -; all 50.0%" in line


def test_bands_show_each_phase_of_each_kind_by_its_length(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "save_figure", lambda figure, path: drawn.append(figure))
    low, high, made = np.array([[0.1, 0.0, 0.0], [0.3, 0.2, 0.1]]), np.array([[0.5, 0.2, 0.1], [0.4, 0.3, 0.2]]), np.array([[0.6, 0.1, 0.1], [0.3, 0.3, 0.1]])
    curves = {"two-point": {"band": [low, high], "made": made}, "chords": {"band": [low / 2, high / 2], "made": made / 2}}
    report.plot_bands(tmp_path / "bands.png", curves, ["pore", "grain"], 0.5, "µm", 0.9)
    panels = drawn[0].axes
    assert panels[0].collections[0].get_label() == "real images, 90%"
    assert [panel.get_title() for panel in panels] == ["pore", "grain"] * 2
    assert (panels[0].get_ylabel(), panels[2].get_ylabel()) == ("two-point", "chords")
    np.testing.assert_allclose(panels[3].get_lines()[0].get_xydata(), np.column_stack([[0.0, 0.5, 1.0], made[1] / 2]))
    corners = panels[1].collections[0].get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(0.1) and corners[:, 1].max() == pytest.approx(0.4) and corners[:, 0].max() == pytest.approx(1.0)


def test_curves_show_mean_and_band_of_each_source(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "save_figure", lambda figure, path: drawn.append(figure))
    members = np.array([[[0.5, 0.3], [0.5, 0.1]], [[0.7, 0.5], [0.3, 0.3]]])  # (2 images, 2 phases, 2 lags)
    report.plot_curves(tmp_path / "curves.png", np.array([0.0, 2.0]), {"images": members, "one": members[:1]}, ["pore", "grain"])
    pore, grain = drawn[0].axes
    assert [line.get_label() for line in pore.get_lines()] == ["images", "one"] and pore.get_title() == "pore"
    np.testing.assert_allclose(pore.get_lines()[0].get_ydata(), [0.6, 0.4])
    np.testing.assert_allclose(grain.get_lines()[1].get_ydata(), [0.5, 0.1])
    assert len(pore.collections) == 1  # a single member has no band
    low, high = pore.collections[0].get_paths()[0].vertices[:, 1].min(), pore.collections[0].get_paths()[0].vertices[:, 1].max()
    assert (low, high) == pytest.approx((0.3, 0.7))


def test_a_large_plane_is_cut_before_it_is_coloured(tmp_path, monkeypatch):
    """Panels show 30 of the finest pixels: the picture is the same, and no more than that, and a pixel around, is ever coloured."""
    labels = np.random.default_rng(0).integers(0, 3, (3, 91, 120)).astype(np.uint8)
    columns = {"LR": ({plane: part[:44, :60] for plane, part in zip(report.PLANES, labels)}, (2.0,) * 3),
               "SR": (dict(zip(report.PLANES, labels)), (1.0,) * 3)}  # fmt: skip
    monkeypatch.setattr(report, "MAX_PANEL_PIXELS", 30)
    seen, colour = [], report.colour_labels
    monkeypatch.setattr(report, "colour_labels", lambda part: seen.append(part.shape) or colour(part))
    report.plot_slices(tmp_path / "cut.png", columns, ["a", "b", "c"])
    assert seen and all(max(shape) <= 34 for shape in seen)
    monkeypatch.setattr(report, "_middle", lambda part, shown: part)
    report.plot_slices(tmp_path / "whole.png", columns, ["a", "b", "c"])
    assert np.array_equal(*(np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("cut", "whole")))
