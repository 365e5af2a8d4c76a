"""The page of an evaluation: in a browser, and what its tables and pictures hold."""

from __future__ import annotations

import dataclasses
import base64
import io
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from bundle import html_report, html_slices, report
from bundle.errors import InputError
from bundle.html_slices import label_png, mosaic_png, percent_png, reduce_labels, sections
from bundle.html_tables import cell, nested, table
from bundle.io import Volume
from bundle.metrics import lr_agreement, staircase, statistic_names, statistics, summarise

EVIL = "<img src=x onerror=alert(1)> & clay"
PHASES = ["pore", EVIL, "quartz"]
SCALE = 4


class Reader(HTMLParser):
    """Tags with their attributes, and the text of table cells by row."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.rows, self.inside = [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = tag

    def handle_endtag(self, tag):
        if tag == self.inside:
            self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def picture(uri: str) -> np.ndarray:
    """RGBA of a data URI."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGBA"))


def colours(labels: np.ndarray) -> np.ndarray:
    return report.colour_labels(labels)


def volumes(shape=(5, 6, 7), seed=0) -> tuple[Volume, Volume]:
    """LR of 2 µm and its nearest neighbour of .5 µm with noise."""
    rng = np.random.default_rng(seed)
    lr = rng.integers(0, 3, shape, np.uint8)
    sr = lr.repeat(SCALE, 0).repeat(SCALE, 1).repeat(SCALE, 2)
    sr = np.where(rng.random(sr.shape) < 0.1, rng.integers(0, 3, sr.shape, np.uint8), sr)
    return Volume(lr, (2.0,) * 3), Volume(sr, (0.5,) * 3)


def made(uncertainty: bool = True, **more) -> tuple[dict, dict, dict]:
    """Result, curves and sections as `page` takes them."""
    lr, sr = volumes()
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 3, (40, 30), np.uint8) for _ in range(3)]
    values = np.stack([statistics(image, 3) for image in images])
    summary = summarise(statistic_names(PHASES), values, statistics(lr.array, 3, upsample=SCALE), statistics(sr.array, 3))
    summary["hr_images"] = 3
    for i, row in enumerate(summary["statistics"].values()):
        row.update(hr_min=values[:, i].min(), hr_max=values[:, i].max())
    lag = np.arange(5) * 0.5
    curve = {"lag": lag, "mean": np.exp(-lag)[None].repeat(3, 0)}
    curves = {"all planes": {"LR": curve, "SR": curve, "HR": {**curve, "min": curve["mean"] * 0.9, "max": curve["mean"] * 1.1}}}
    result = {
        "files": {"lr_image": "folder/lr & <b>.tif", "sr_image": "folder/sr<i>.tif", "hr_images": {"all planes": 3}},
        "phases": PHASES,
        "voxel_size": {"unit": "µm", "lr": [2.0] * 3, "sr": [0.5] * 3},
        "shape": {"lr": list(lr.array.shape), "sr": list(sr.array.shape)},
        "lr_agreement": lr_agreement(lr.array, sr.array, SCALE, PHASES),
        "staircase": staircase(lr.array, sr.array, SCALE),
        "groups": {"all planes": summary},
        "two_point": curves,
        **more,
    }
    percent = rng.integers(0, 101, sr.array.shape, np.uint8) if uncertainty else None
    return result, curves, sections(lr, sr, {"all planes": images}, 3, percent)


@pytest.fixture
def no_charts(monkeypatch):
    """Drawing takes most of the time of a page."""
    for name in ("statistics_figure", "two_point_figure"):
        monkeypatch.setattr(report, name, lambda *args: None)
    monkeypatch.setattr(report, "svg", lambda figure: b"<svg/>")


# --- in a browser ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium with its driver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--window-size=1280,900",
                   "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):  # fmt: skip
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(executable_path=driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    """The page with uncertainty, opened; how it got there is in its log."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    html_report.write(path, *made())
    browser.get(path.as_uri())
    return browser


def shown(browser, plane: str) -> dict[str, str]:
    images = browser.find_elements("css selector", f"#plane-{plane} img")
    return {image.get_attribute("data-column"): image.get_attribute("src") for image in images}


def test_page_opens_without_an_error_or_a_request(opened):
    assert [entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    addresses = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert sum(address.startswith("file:") for address in addresses) == 1  # the page
    allowed = ("file:", "data:", "chrome:", "chrome-untrusted:")  # the last two are pages of the browser itself, opened before
    assert [address for address in addresses if not address.startswith(allowed)] == []
    loaded = opened.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert opened.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    broken = opened.execute_script("return [...document.images].filter(image => !image.naturalWidth).length")
    assert broken == 0


@pytest.mark.parametrize("plane", ["xy", "xz", "yz"])
def test_slider_moves_all_columns_by_keys(opened, plane):
    from selenium.webdriver.common.keys import Keys

    slider = opened.find_element("id", f"slider-{plane}")
    before, place = shown(opened, plane), opened.find_element("css selector", f"#plane-{plane} output").text
    others = {other: shown(opened, other) for other in report.PLANES if other != plane}
    slider.send_keys(Keys.ARROW_LEFT)
    after = shown(opened, plane)
    assert set(after) == {"lr", "sr", "hr", "uncertainty"} and all(before[column] != after[column] for column in after)
    text = opened.find_element("css selector", f"#plane-{plane} output").text
    assert text != place and text == slider.get_attribute("aria-valuetext")
    assert others == {other: shown(opened, other) for other in others}
    slider.send_keys(Keys.ARROW_RIGHT)
    assert shown(opened, plane) == before


def test_every_place_shows_lr_and_sr_of_that_place(opened):
    lr, sr = volumes()
    for i, y in enumerate((1.0, 3.0, 5.0, 7.0, 9.0, 11.0)):
        opened.execute_script(
            "const s = document.getElementById('slider-xz'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))", i
        )
        assert opened.find_element("css selector", "#plane-xz output").text == f"y = {y:g} µm"
        images = shown(opened, "xz")
        np.testing.assert_array_equal(picture(images["lr"])[..., :3], colours(lr.array[:, int(y // 2)]))
        np.testing.assert_array_equal(picture(images["sr"])[..., :3], colours(sr.array[:, int(y * 2)]))


def test_overlay_comes_and_goes(opened):
    box = opened.find_element("id", "overlay")
    image = opened.find_element("css selector", "#plane-xy img[data-column=uncertainty]")
    sr = opened.find_element("css selector", "#plane-xy img[data-column=sr]")
    assert not box.is_selected() and not image.is_displayed()
    plain = np.asarray(Image.open(io.BytesIO(sr.screenshot_as_png)))
    box.click()
    assert image.is_displayed() and image.rect == sr.rect
    assert (np.asarray(Image.open(io.BytesIO(sr.screenshot_as_png))) != plain).any()
    box.click()
    assert not image.is_displayed()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sr.screenshot_as_png))), plain)


def test_columns_are_of_one_size_and_the_bar_is_to_scale(opened):
    rect = {c: opened.find_element("css selector", f"#plane-xy img[data-column={c}]").rect for c in ("lr", "sr")}
    for key in ("width", "height", "y"):
        assert rect["lr"][key] == pytest.approx(rect["sr"][key], abs=0.5)
    bar = opened.find_element("css selector", "#plane-xy .scale span")
    micrometres = float(bar.text.split()[0])
    assert bar.rect["width"] / micrometres == pytest.approx(rect["lr"]["width"] / 14, rel=0.01)  # 7 voxels of 2 µm
    assert rect["lr"]["height"] / rect["lr"]["width"] == pytest.approx(6 / 7, rel=0.01)
    yz = opened.find_element("css selector", "#plane-yz img[data-column=lr]").rect
    assert yz["width"] / 12 == pytest.approx(rect["lr"]["width"] / 14, rel=0.01)  # all planes at one scale


def test_names_are_text(opened):
    assert EVIL in opened.find_element("id", "legend").text
    assert EVIL in opened.find_element("id", "agreement").text
    assert opened.find_element("tag name", "h1").text == "Evaluation of sr<i>.tif"
    assert opened.find_elements("css selector", "[onerror], h1 i, #legend img") == []


def test_without_uncertainty_there_is_no_switch(browser, tmp_path, no_charts):
    path = tmp_path / "report.html"
    html_report.write(path, *made(uncertainty=False))
    browser.get(path.as_uri())
    assert browser.find_elements("id", "overlay") == []
    assert browser.get_log("browser") == []


@pytest.mark.parametrize(("trust", "words"), [({"mean": 0.8, "sure": 0.5, "overlay": True}, "chance that the label is wrong"), (None, "uncertainty")])
def test_the_switch_says_what_is_laid_over(trust, words, no_charts):
    html = html_report.page(*made(**({"trust": trust} if trust else {})))
    label = html.split('id="overlay">')[1].split("</div>")[0]
    assert f"{words} over SR" in label and ("all seeds agree" in label) == (trust is None)


# --- what it holds ---------------------------------------------------------------------------------------------------------------------


def test_images_of_unequal_size_keep_their_scale_as_the_slider_moves(browser, tmp_path, no_charts):
    lr, sr = volumes()
    result, curves, _ = made(False)
    images = [np.zeros(shape, np.uint8) for shape in ((20, 24), (10, 24), (16, 6))]
    html_report.write(tmp_path / "report.html", result, curves, sections(lr, sr, {"all planes": images}, 3, None))
    browser.get((tmp_path / "report.html").as_uri())
    sizes, widths = set(), set()
    for i in range(5):
        browser.execute_script("const s = document.getElementById('slider-xy'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))", i)
        image = browser.find_element("css selector", "#plane-xy img[data-column=hr]")
        script = "const i = arguments[0]; return i.decode().then(() => [i.naturalHeight, i.naturalWidth, i.clientHeight, i.clientWidth])"
        height, width, shown_height, shown_width = browser.execute_script(script, image)
        assert shown_height / height == pytest.approx(shown_width / width, rel=0.05)
        sizes.add((height, width))
        widths.add(round(shown_width / width, 1))
    assert len(sizes) == 3 and max(widths) - min(widths) <= 0.03 * max(widths)  # pixels are as large in each


def test_page_names_nothing_outside_itself():
    html = html_report.page(*made())
    reader = Reader(html)
    for tag, attributes in reader.tags:
        assert tag not in ("link", "iframe", "object", "base")
        assert attributes.get("src", "data:").startswith("data:") and attributes.get("href", "#").startswith("#"), (tag, attributes)
    assert "default-src 'none'" in html and "@import" not in html and "url(" not in html
    identities = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    assert EVIL not in html and "sr<i>" not in html


def test_the_data_of_the_script_cannot_end_it(no_charts):
    result, curves, pictures = made()
    result["voxel_size"]["unit"] = "</script><i>"
    html = html_report.page(result, curves, pictures)
    assert "</script><i>" not in html and html.count("</script>") == 2


def test_statistics_table_has_the_numbers(no_charts):
    result, curves, pictures = made()
    rows = {row[0]: row for row in Reader(html_report.page(result, curves, pictures)).rows}
    row = result["groups"]["all planes"]["statistics"]["pore"]
    assert [cells for cells in Reader(html_report.page(result, curves, pictures)).rows if cells[1:2] == ["HR mean ± std"]]
    assert rows["pore"][1].startswith(f"{row['hr']:.3f}"[1:]) and rows["pore"][3:5] == [f"{row[k]:.3f}"[1:] for k in ("lr", "sr")]
    assert rows["pore"][5:7] == [f"{100 * row[k]:.1f} %" for k in ("lr_error", "sr_error")]
    counts = result["lr_agreement"]["confusion"][0]
    assert rows["LR pore"][1] == f"{counts[0]} ({100 * counts[0] / sum(counts):.1f} %)"


def test_sections_of_others_appear_only_when_there(no_charts):
    plain = html_report.page(*made())
    assert 'id="physics"' not in plain and 'id="truth"' not in plain and 'id="view"' not in plain
    physics = {"permeability (mD) <k>": {"Truth": 812.5, "LR": 640.0, "nearest": None, "SR": 790}}
    html = html_report.page(*made(physics=physics, truth={"accuracy": 0.912, "Dice": {"pore": 0.95}}))
    rows = Reader(html).rows
    assert ["", "Truth", "LR", "nearest", "SR"] not in rows  # one row of many columns reads better as a list
    assert ["Truth", "812.5"] in rows and ["SR", "790"] in rows and ["nearest", "–"] in rows and ["accuracy", ".9120"] in rows
    two = {**physics, "formation factor": {"Truth": 12.0, "LR": 10.0, "nearest": 11.0, "SR": 11.5}}
    rows = Reader(html_report.page(*made(physics=two))).rows
    assert ["", "Truth", "LR", "nearest", "SR"] in rows and ["permeability (mD) <k>", "812.5", "640.0", "–", "790"] in rows


def test_what_gives_sr_away_is_shown_beside_the_test(no_charts):
    table = {"axis planes": {"SR: AUC ± standard error": ".74 ± .07"}}
    crops = {name: mosaic_png(np.full((2, 4, 4), label, np.uint8), 2) for label, name in enumerate(("real", "fake"))}
    shown = [attributes["src"] for tag, attributes in Reader(html_report.page(*made(two_sample=table), crops)).tags if "told" in (attributes.get("alt") or "")]
    assert [tuple(picture(uri)[0, 0, :3]) for uri in shown] == [tuple(colours(np.array([[label]]))[0, 0]) for label in (0, 1)]
    assert "told most surely" not in html_report.page(*made(two_sample=table))


def test_page_is_written_whole_or_not(tmp_path, no_charts):
    html_report.write(tmp_path / "new" / "report.html", *made())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        html_report.write(tmp_path / "file" / "report.html", *made())


def test_the_same_result_gives_the_same_page():
    assert html_report.page(*made()) == html_report.page(*made())


def test_tables_hold_any_dict():
    html = table({"a<b": {"x": 1234567, "y": True}, "c": {"y": None, "z": [1, 2.5]}}, "cap<tion")
    assert Reader(html).rows == [["", "x", "y", "z"], ["a<b", "1,234,567", "yes", ""], ["c", "", "–", "1, 2.500"]]
    assert "cap&lt;tion" in html
    deep = nested({"n": 3, "phases": {"pore": {"x": {"v": 1}, "y": {"v": 2}}, "clay": {"w": {"v": 3}}}, "empty": {}}, "T")
    assert Reader(deep).rows == [["n", "3"], ["", "v"], ["x", "1"], ["y", "2"], ["v", "3"]]
    assert "T: phases: pore" in deep and "T: phases: clay: w" in deep
    assert cell(np.float64(0.25)) == ".2500" and cell(np.int64(7)) == "7" and cell(list(range(99))) == "99 values" and cell(float("nan")) == "nan"


# --- sections --------------------------------------------------------------------------------------------------------------------------


class OnDisk:
    """An array that counts the voxels read from it."""

    def __init__(self, array: np.ndarray):
        self.array, self.shape, self.read, self.largest = array, array.shape, 0, 0

    def __getitem__(self, box):
        part = self.array[box]
        self.read += part.size
        self.largest = max(self.largest, part.size)
        return part


def test_only_the_sections_shown_are_read():
    lr, sr = volumes((30, 30, 30))
    source = OnDisk(sr.array)
    found = sections(lr, Volume(source, sr.voxel_size), {"all planes": [np.zeros((9, 9), np.uint8)]}, 3)
    assert source.largest == 120 * 120 and source.read == 3 * 24 * 120 * 120
    assert all(len(one.places) == 24 == len(one.pictures["sr"]) for one in found.values())
    assert found["xy"].places[0] == 1.0 and found["xy"].places[-1] == 59.0


def test_large_sections_are_reduced_by_majority(monkeypatch, no_charts):
    result, curves, whole = made()
    monkeypatch.setattr(html_slices, "MAX_PIXELS", 10)
    lr, sr = volumes()  # SR xy: 24 x 28, 3 voxels a pixel; LR fits
    percent = np.full(sr.array.shape, 40, np.uint8)
    one = sections(lr, sr, {"all planes": [sr.array[0]]}, 3, percent)["xy"]
    assert one.reduced == {"lr": 1, "sr": 3, "uncertainty": 3, "hr": 3}
    cut = np.pad(sr.array[2 + 4 * 2], ((0, 0), (0, 2)), mode="edge")
    expected = [[np.bincount(cut[y : y + 3, x : x + 3].ravel(), minlength=3).argmax() for x in range(0, 28, 3)] for y in range(0, 24, 3)]
    np.testing.assert_array_equal(picture(one.pictures["sr"][2])[..., :3], colours(np.array(expected, np.uint8)))
    assert one.extent == (12.0, 14.0) and one.extents["sr"][0] == (12.0, 15.0)  # the last pixel reaches beyond the border
    html = html_report.page(result, curves, {"xy": one})
    assert "these voxels: SR 3 × 3, HR 3 × 3." in html and "The uncertainty is the mean" in html
    assert "Drawn smaller" not in html_report.page(result, curves, whole)
    other = dataclasses.replace(one, reduced={"lr": 1, "sr": 2, "hr": 1})  # a shorter plane of the same volume, last
    assert "these voxels: SR 2 × 2 or 3 × 3, HR 3 × 3." in html_report.page(result, curves, {"xy": one, "xz": other})


def test_fewer_places_where_pictures_take_too_much(monkeypatch):
    lr, sr = volumes((8, 8, 8))
    groups = {"all planes": [np.zeros((9, 9), np.uint8)]}
    whole = html_slices._bytes(sections(lr, sr, groups, 3))
    monkeypatch.setattr(html_slices, "MAX_BYTES", whole // 2)
    monkeypatch.setattr(html_slices, "MAX_PLACES", 8)
    found = sections(lr, sr, groups, 3)
    assert len(found["xy"].places) in (2, 4) and html_slices._bytes(found) <= whole // 2


def test_the_page_holds_each_picture_once(no_charts):
    result, curves, _ = made()
    lr, sr = volumes()
    found = sections(lr, sr, {"all planes": [np.random.default_rng(0).integers(0, 3, (28, 28), np.uint8)]}, 3)
    html = html_report.page(result, curves, found)
    shown = found["xy"].pictures["hr"]  # one window
    assert len(shown) == 5 and len(set(shown)) == 1 and html.count(shown[0]) == 2  # where it is seen at first, and in the list


def test_images_are_windows_of_the_size_of_sr_each_first():
    lr, sr = volumes((5, 6, 7))  # xy: 24 x 28
    images = [np.full((50, 60), 1, np.uint8), np.full((24, 28), 2, np.uint8), np.full((10, 10), 0, np.uint8)]
    images[0][24:48, 28:56] = 0
    one = sections(lr, sr, {"xy": images}, 3)["xy"]
    assert one.hr_names == ["image 1 of 3, part 1", "image 2 of 3", "image 3 of 3", "image 1 of 3, part 2", "image 1 of 3, part 3"]
    first, second, third = (picture(uri)[..., :3] for uri in one.pictures["hr"][:3])
    assert first.shape == (24, 28, 3) and (first == colours(np.uint8(1))).all() and (second == colours(np.uint8(2))).all()
    assert third.shape == (10, 10, 3) and one.extents["hr"][2] == (5.0, 5.0)
    assert sections(lr, sr, {"xy": images}, 3)["yz"].pictures["hr"] == []


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 20])
def test_palette_pictures_have_the_colours_of_the_labels(n):
    labels = np.arange(20 * 12).reshape(20, 12).astype(np.uint8) % n
    np.testing.assert_array_equal(picture(html_slices.data_uri(label_png(labels)))[..., :3], colours(labels))


def test_crops_lie_row_by_row_with_white_between():
    crops = np.random.default_rng(0).integers(0, 3, (5, 3, 4), np.uint8)
    expected = np.full((3 + 2 + 3, 3 * 4 + 2 * 2, 3), 255, np.uint8)
    for i, crop in enumerate(crops):
        y, x = i // 3 * 5, i % 3 * 6
        expected[y : y + 3, x : x + 4] = colours(crop)
    np.testing.assert_array_equal(picture(html_slices.data_uri(mosaic_png(crops, 3)))[..., :3], expected)


def test_uncertainty_is_more_opaque_where_larger():
    alpha = picture(html_slices.data_uri(percent_png(np.array([[0, 1, 50, 100]], np.uint8))))[0]
    assert alpha[0, 3] == 0 and 0 < alpha[1, 3] < alpha[2, 3] < alpha[3, 3] == html_slices.OVERLAY_OPACITY
    assert (alpha[1:, :3] == html_slices.OVERLAY).all()


def test_reduce_of_an_uneven_side():
    np.testing.assert_array_equal(reduce_labels(np.array([[0, 1, 1], [0, 0, 1]], np.uint8), 2, 2), [[0, 1]])


@pytest.mark.parametrize(("change", "says"), [(lambda u: u[1:], "shape"), (lambda u: u * 0 + 255, "not made yet"), (lambda u: u * 0 + 101, "101")])
def test_uncertainty_that_does_not_fit(change, says):
    lr, sr = volumes()
    with pytest.raises(InputError, match=says):
        sections(lr, sr, {"all planes": [sr.array[0]]}, 3, change(np.zeros(sr.array.shape, np.uint8)))
