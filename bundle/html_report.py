"""The evaluation as one HTML file that needs nothing else: verdicts, sections with sliders, statistics, curves, provenance.

Each section of the page is a function that gives HTML, or nothing where the result does not hold what it shows.
"""

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from bundle import report
from bundle.html_slices import OVERLAY, OVERLAY_OPACITY, Sections, data_uri
from bundle.html_tables import nested, table
from bundle.io import write_text
from bundle.io.volume import size_text
from bundle.verdicts import number, percent, plus_minus, verdicts

MARKS = {"good": "✓ good", "warn": "! look", "bad": "✗ bad", "note": "i note"}
# Parts of a result that others add: key -> heading, caption, and a sentence on what it shows.
OPTIONAL = {
    "diversity": ("Seeds", "SR volumes of other seeds of the noise against SR", "What differs is chance; what is the same, the scan decides."),
    "truth": ("Truth", "Against the true labels at this place", "The true fine labels of this volume are known."),
    "physics": ("Physics", "Computed properties", "Computed on the labels; nearest: LR repeated to the fine grid (nearest neighbour)."),
    "morphology": ("Morphology", "Shape and connection of the phases", ""),
    "two_sample": ("Two-sample tests", "SR against the HR images", ""),
}
SMALL_PIXELS = 400  # pictures with fewer are enlarged on a page: pixels stay squares
# Only what lies in the file is loaded.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write(
    path: str | os.PathLike,
    result: Mapping[str, Any],
    curves: Mapping[str, Mapping],
    sections: Mapping[str, Sections],
    pictures: Mapping[str, bytes] | None = None,
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: of the HTML file.
        result: of `bundle.evaluation.Evaluation.run`.
        curves: as for `bundle.report.two_point_figure`.
        sections: of `bundle.html_slices.sections`.
        pictures: PNG: "view", the surfaces, of `bundle.view3d.surfaces_png`; "real" and "fake", mosaics of the crops of the HR images and of SR by which a
            network tells them apart. Each may be missing.

    Raises:
        InputError: the file cannot be written.
    """
    write_text(path, page(result, curves, sections, pictures))


def page(
    result: Mapping[str, Any], curves: Mapping[str, Mapping], sections: Mapping[str, Sections], pictures: Mapping[str, bytes] | None = None
) -> str:
    """The HTML; see `write`."""
    pictures = pictures or {}
    parts = {
        "verdicts": ("What the numbers say", _verdicts(result)),
        "sections": ("Sections", _sections(sections, result["phases"], result["voxel_size"]["unit"], (result.get("trust") or {}).get("overlay", False))),
        "view": ("Surfaces in 3D", _view(pictures.get("view"))),
        "statistics": ("Statistics", _statistics(result)),
        "curves": ("Two-point correlation", _curves(curves, result)),
        "agreement": ("Agreement with LR", _agreement(result["lr_agreement"])),
        **{key: (heading, _optional(result, key, caption, text)) for key, (heading, caption, text) in OPTIONAL.items()},
        "provenance": ("Provenance", _provenance(result)),
    }
    parts["two_sample"] = (parts["two_sample"][0], parts["two_sample"][1] + _told(pictures))
    shown = {key: part for key, part in parts.items() if part[1]}
    links = "".join(f'<a href="#{key}">{escape(heading)}</a>' for key, (heading, _) in shown.items())
    body = "".join(f'<section id="{key}"><h2>{escape(heading)}</h2>\n{html}</section>\n' for key, (heading, html) in shown.items())
    name = os.path.basename(result["files"]["sr_image"])
    resources = files("bundle")
    style, script = (resources.joinpath(f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(name)}: evaluation</title>
<style>
{style}</style>
</head>
<body>
<h1>Evaluation of {escape(name)}</h1>
{_intro(result)}<nav>{links}</nav>
{body}<script type="application/json" id="pictures">{_json(sections, result["voxel_size"]["unit"])}</script>
<script>
{script}</script>
</body>
</html>
"""


def _intro(result: Mapping[str, Any]) -> str:
    size, shape, named = result["voxel_size"], result["shape"], result["files"]
    lines = []
    for kind, text in (("lr", "LR, the scan"), ("sr", "SR, the super-resolved volume")):
        voxels = " × ".join(str(n) for n in shape[kind])
        lines.append(f"{text}: {os.path.basename(named[kind + '_image'])}, {voxels} voxels (z, y, x) of {size_text(size[kind]).replace('x', '×')} {size['unit']}.")
    images = ", ".join(f"{count} ({group})" for group, count in named["hr_images"].items())
    lines.append(f"HR, images of the same rock from other places: {images}.")
    return "".join(f"<p>{escape(line)}</p>\n" for line in lines)


def _verdicts(result: Mapping[str, Any]) -> str:
    found = verdicts(result)
    lines = "".join(
        f'<li class="{mark}"><span class="mark">{escape(MARKS[mark])}</span><span>{escape(text)}</span></li>\n' for mark, text in found
    )
    counts = ", ".join(f"{sum(one.mark == mark for one in found)} {word}" for mark, word in MARKS.items())
    intro = f"{counts}. Each line is a rule on the numbers below; none of them looks at the pictures."
    return f'<p>{escape(intro)}</p>\n<ul class="verdicts">\n{lines}</ul>\n'


def _sections(sections: Mapping[str, Sections], phases: Sequence[str], unit: str, doubt: bool) -> str:
    overlaid = any("uncertainty" in one.pictures for one in sections.values())
    swatches = "".join(
        f'<span><span class="swatch" style="background:{report.PHASE_COLOURS[i % len(report.PHASE_COLOURS)]}"></span>{escape(name)}</span>'
        for i, name in enumerate(phases)
    )
    html = (
        "<p>LR and SR are cut at the same place. The HR images are of other places in the rock: compare their texture, not their shapes. "
        "Move the sliders with the mouse or the arrow keys.</p>\n"
        f'<div class="bar" id="legend">{swatches}</div>\n'
    )
    if overlaid:
        colour, opacity = ",".join(map(str, OVERLAY)), OVERLAY_OPACITY / 255
        html += (
            f'<div class="bar"><label><input type="checkbox" id="overlay"> {"chance that the label is wrong" if doubt else "uncertainty"} over SR</label>'
            f'<span>0 %{"" if doubt else " (all seeds agree)"}'
            f'<span class="ramp" style="background:linear-gradient(90deg,rgba({colour},0),rgba({colour},{opacity:.2f}))"></span>'
            f'100 %{"" if doubt else " (all phases equally often)"}</span></div>\n'
        )
    reduced: dict[str, set[int]] = {}  # planes of an oblong volume may be reduced by different factors
    for column, factor in ((column.upper(), factor) for one in sections.values() for column, factor in one.reduced.items() if column != "uncertainty"):
        if factor > 1:
            reduced.setdefault(column, set()).add(factor)
    if reduced:
        drawn = ", ".join(f"{column} {' or '.join(f'{factor} × {factor}' for factor in sorted(factors))}" for column, factors in reduced.items())
        text = f"Drawn smaller: a pixel is the most frequent phase of these voxels: {drawn}. Thin films can vanish by that."
        text += " The uncertainty is the mean of those of SR." if overlaid and "SR" in reduced else ""
        html += f'<p class="small">{escape(text)}</p>\n'
    widest = max(one.extent[1] for one in sections.values())
    return html + "".join(_plane(plane, one, widest, unit) for plane, one in sections.items())


def _plane(plane: str, one: Sections, widest: float, unit: str) -> str:
    """Three columns at one scale, all planes alike: a box's width is its share of the widest plane."""
    middle = len(one.places) // 2
    normal = ({*"xyz"} - {*plane}).pop()
    columns = {"lr": "LR", "sr": "SR", "hr": "HR"}
    figures = "".join(_figure(column, title, one, middle, widest) for column, title in columns.items())
    bar = report.bar_length(one.extent[1])
    slider = (
        f'<input type="range" id="slider-{plane}" data-plane="{plane}" min="0" max="{len(one.places) - 1}" value="{middle}" step="1">'
        f'<output data-text="places">{escape(_place(normal, one.places[middle], unit))}</output>'
    )
    return (
        f'<div class="plane" id="plane-{plane}">\n<div class="slide"><label for="slider-{plane}"><strong>{plane}</strong>, '
        f"across {normal}</label>{slider}</div>\n"
        f'<div class="columns">{figures}</div>\n'
        f'<div class="columns"><div class="scale"><span style="width:{100 * bar / widest:.3f}%">{bar:g}\u00a0{escape(unit)}</span></div></div>\n'
        "</div>\n"
    )


def _figure(column: str, title: str, one: Sections, place: int, widest: float) -> str:
    height, width = one.extent
    caption = f"<strong>{title}</strong>"
    if column == "hr":
        name = escape(one.hr_names[place]) if one.hr_names else ""
        caption += f', elsewhere in the rock: <span data-text="hr">{name}</span>' if name else ""
    images = ""
    for layer in [column, "uncertainty"] if column == "sr" and "uncertainty" in one.pictures else [column]:
        if not one.pictures[layer]:
            images += '<span class="none">no HR image of this plane</span>'
            continue
        names = " ".join(["pixels"] * (max(one.pixels[layer]) < SMALL_PIXELS) + ["off"] * (layer != column))
        images += (
            f'<img data-column="{layer}" class="{names}" alt="{title if layer == column else "uncertainty"}" src="{one.pictures[layer][place]}" '
            f'style="{_picture_style(one, layer, place)}">'
        )
    style = f"width:{100 * width / widest:.3f}%;aspect-ratio:{width:.6g}/{height:.6g}"
    return f'<figure><figcaption>{caption}</figcaption><div class="box" style="{style}">{images}</div></figure>'


def _picture_style(one: Sections, layer: str, place: int) -> str:
    """Size of a picture in its box, which is as large as SR: HR images can be smaller, and differ."""
    (height, width), (h, w) = one.extent, one.extents[layer][place]
    return f"width:{100 * w / width:.3f}%;height:{100 * h / height:.3f}%"


def _view(view: bytes | None) -> str:
    if not view:
        return ""
    text = "The middle of LR and SR, the same box seen from the same side; at the border of the box the surfaces are cut open."
    return f'<p>{text}</p>\n<img class="chart" alt="surfaces of a phase in LR and SR" src="{data_uri(view)}">\n'


def _told(pictures: Mapping[str, bytes]) -> str:
    """By what a network tells SR from the HR images."""
    columns = {"real": "HR images", "fake": "SR"}
    if not pictures.keys() >= columns.keys():
        return ""
    text = (
        "Of places that the networks never saw, the crops that they were surest of, the surest first: what they know the HR images by, and what gives SR away. "
        "Crops of a kind that SR has none of at this place, such as a mineral that is rare here, say nothing of its texture."
    )
    figures = "".join(
        f'<figure><figcaption><strong>{title}</strong></figcaption><img class="chart pixels" alt="crops told most surely, {title}" '
        f'src="{data_uri(pictures[name])}"></figure>'
        for name, title in columns.items()
    )
    return f'<p>{text}</p>\n<div class="columns">{figures}</div>\n'


def _statistics(result: Mapping[str, Any]) -> str:
    html = ""
    for group, summary in result["groups"].items():
        rows = {name: _statistic(row, summary) for name, row in summary["statistics"].items()}
        error = summary["mean_relative_error"]
        rows["mean relative error"] = {"LR error": _share(error["lr"]), "SR error": _share(error["sr"])}
        html += table(rows, f"Volume fractions, then interfacial areas / interior faces; {group}, {summary['hr_images']} HR images")
    html += (
        '<p class="small">LR is repeated to the HR grid (nearest neighbour), as a face area depends on the voxel size. ± is the standard deviation '
        "between images, or between seeds of the noise. Errors are relative to the mean of the HR images.</p>\n"
    )
    return html + _chart(report.statistics_figure(result["groups"], result["phases"]), "bars of the statistics of LR, SR and HR")


def _statistic(row: Mapping[str, float], summary: Mapping[str, Any]) -> dict[str, Any]:
    several = summary["hr_images"] > 1
    found = {"HR mean ± std": plus_minus(row["hr"], row["hr_std"]) if several else number(row["hr"])}
    if several:
        found["HR min to max"] = f"{number(row['hr_min'])} to {number(row['hr_max'])}"
    found |= {"LR": number(row["lr"]), "SR": number(row["sr"])}
    if "seeds" in summary:
        found[f"SR, {summary['seeds']['number']} seeds"] = plus_minus(row["sr_mean"], row["sr_std"])
    sr, lr = abs(row["sr"] - row["hr"]), abs(row["lr"] - row["hr"])
    nearer = "SR" if sr < lr else "LR" if lr < sr else "equal"
    return found | {"LR error": _share(row["lr_error"]), "SR error": _share(row["sr_error"]), "nearer to HR": nearer}


def _share(value: float | None) -> str | None:
    return None if value is None else percent(value)


def _curves(curves: Mapping[str, Mapping], result: Mapping[str, Any]) -> str:
    text = "The probability that two voxels r apart along an axis are both of the phase; at r = 0 it is the volume fraction."
    figure = report.two_point_figure(curves, result["phases"], result["voxel_size"]["unit"])
    return f"<p>{text}</p>\n" + _chart(figure, "two-point correlation of each phase in LR, SR and HR")


def _chart(figure: Any, alt: str) -> str:
    return f'<img class="chart" alt="{escape(alt)}" src="{data_uri(report.svg(figure), "image/svg+xml")}">\n'


def _agreement(agreement: Mapping[str, Any]) -> str:
    names, rows = list(agreement["kept"]), {}
    for name, counts in zip(names, agreement["confusion"], strict=True):
        total = sum(counts)
        shares = [f"{count:,} ({percent(count / total)})" if count else "0" for count in counts]
        rows[f"LR {name}"] = dict(zip([f"SR {one}" for one in names], shares, strict=True))
    text = f"In {percent(agreement['all'])} of all LR voxels the most frequent label of the SR voxels inside is the LR label."
    return f"<p>{text}</p>\n" + table(rows, "LR voxels by their label (rows) and by the most frequent label of SR in them (columns)")


def _optional(result: Mapping[str, Any], key: str, caption: str, text: str) -> str:
    data = result.get(key)
    return (f"<p>{escape(text)}</p>\n" if text else "") + nested(data, caption) if data else ""


def _provenance(result: Mapping[str, Any]) -> str:
    data = result.get("provenance")
    if not data:
        return ""
    names = {"file": "file", "sha256": "SHA-256 of the file", "labels_sha256": "SHA-256 of shape and labels"}
    html = table({name: {names[key]: value for key, value in one.items()} for name, one in data["files"].items()}, "Files compared")
    html += nested({key: value for key, value in data.items() if key not in ("files", "inference")}, "This evaluation")
    if data.get("inference"):
        return html + nested(data["inference"], "The inference that made SR")
    return html + "<p>No record of the inference lies beside SR: what it was made from is not known here.</p>\n"


def _json(sections: Mapping[str, Sections], unit: str) -> str:
    uris: dict[str, int] = {}  # each picture once: few HR images are shown at many places
    planes = {
        plane: {
            "pictures": {layer: [uris.setdefault(uri, len(uris)) for uri in found] for layer, found in one.pictures.items()},
            "styles": {layer: [_picture_style(one, layer, i) for i in range(len(found))] for layer, found in one.pictures.items()},
            "hr": one.hr_names,
            "places": [_place(({*"xyz"} - {*plane}).pop(), place, unit) for place in one.places],
        }
        for plane, one in sections.items()
    }
    return json.dumps({"planes": planes, "uris": list(uris)}).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _place(axis: str, position: float, unit: str) -> str:
    return f"{axis} = {position:.4g} {unit}"
