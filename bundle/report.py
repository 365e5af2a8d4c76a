"""Pictures and the text table that show LR, SR and HR side by side. matplotlib is imported when a picture is drawn, never a display."""

import io
import os
from collections.abc import Mapping, Sequence

import numpy as np

from bundle.io.atomic import atomic_path

# In label order: pore is black, the rest are told apart in print and by most colour-blind readers.
PHASE_COLOURS = ("#000000", "#c8b48c", "#c05040", "#40a0c0", "#70a050", "#9060b0", "#e0a030", "#e080c0")

# Array axes (rows, columns) of the planes of a (z, y, x) volume.
PLANES = {"xy": (1, 2), "xz": (0, 2), "yz": (0, 1)}

MAX_PANEL_PIXELS = 768  # a panel shows at most this many of the finest pixels, or the texture would vanish
LINE_STYLES = {"HR": {"color": "black"}, "SR": {"color": "#0060c0"}, "LR": {"color": "#d07000", "linestyle": "--", "marker": "."}}


def colour_labels(labels: np.ndarray) -> np.ndarray:
    """Labels (y, x) -> RGB (y, x, 3) uint8 in `PHASE_COLOURS` (repeated where there are more labels)."""
    table = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in PHASE_COLOURS], np.uint8)
    return table[labels % len(table)]


def middle_slices(volume: np.ndarray) -> dict[str, np.ndarray]:
    """The middle plane across each axis of (z, y, x): xy (y, x), xz (z, x) and yz (z, y)."""
    z, y, x = (size // 2 for size in volume.shape)
    depth, height, width = volume.shape
    parts = {"xy": np.s_[z : z + 1, 0:height, 0:width], "xz": np.s_[0:depth, y : y + 1, 0:width], "yz": np.s_[0:depth, 0:height, x : x + 1]}
    return {plane: np.asarray(volume[part]).squeeze(axis) for axis, (plane, part) in enumerate(parts.items())}


def plot_slices(
    path: str | os.PathLike,
    columns: Mapping[str, tuple[Mapping[str, np.ndarray], Sequence[float]]],
    phases: Sequence[str],
    unit: str = "µm",
) -> None:
    """Write a PNG with a row for each plane and a column for each source, all panels at one physical scale, with a scale bar.

    Panels are centred on each other and show what the smallest column (the SR, as a rule) covers.

    Args:
        path: of the PNG.
        columns: title -> ({plane: labels (rows, columns)}, pixel size along (z, y, x)); a plane may be missing.
        phases: names, in label order, for the legend.
        unit: of the pixel sizes.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    finest = min(min(size) for _, size in columns.values())
    spans = {plane: _common_span(columns, plane, finest * MAX_PANEL_PIXELS) for plane in PLANES}
    width = max(span[1] for span in spans.values())
    inches = 3.6 / width
    heights = [span[0] * inches for span in spans.values()]
    figure = Figure(figsize=(3.75 * len(columns) + 0.3, sum(heights) + 0.15 * len(heights) + 0.8), dpi=160, layout="constrained")
    panels = figure.subplots(len(PLANES), len(columns), squeeze=False, height_ratios=heights)
    for row, (plane, (height, _)) in zip(panels, spans.items(), strict=True):
        row[0].set_ylabel(plane, rotation=0, ha="right", va="center")
        for panel, (slices, size) in zip(row, columns.values(), strict=True):
            panel.set(xticks=[], yticks=[])
            if plane not in slices:
                panel.axis("off")
                continue
            steps = [size[axis] for axis in PLANES[plane]]
            labels = _middle(slices[plane], [extent / step for extent, step in zip((height, width), steps)])
            h, w = (n * step / 2 for n, step in zip(labels.shape, steps, strict=True))
            panel.imshow(colour_labels(labels), extent=(-w, w, h, -h), interpolation_stage="rgba")
            panel.set(xlim=(-width / 2, width / 2), ylim=(height / 2, -height / 2), aspect="equal")
    for panel, title in zip(panels[0], columns, strict=True):
        panel.set_title(title)
    _scale_bar(panels[0, 0], width, spans["xy"][0], unit)
    colours = [PHASE_COLOURS[i % len(PHASE_COLOURS)] for i in range(len(phases))]
    figure.legend(handles=[Patch(facecolor=c, edgecolor="grey", label=p) for c, p in zip(colours, phases, strict=True)],
                  loc="outside lower center", ncols=len(phases), frameon=False)  # fmt: skip
    save_figure(figure, path)


def plot_two_point(path: str | os.PathLike, groups: Mapping[str, Mapping], phases: Sequence[str], unit: str = "µm") -> None:
    """Write `two_point_figure` as a PNG."""
    save_figure(two_point_figure(groups, phases, unit), path)


def two_point_figure(groups: Mapping[str, Mapping], phases: Sequence[str], unit: str = "µm"):
    """The two-point correlation as a matplotlib Figure: a row for each plane group, a panel for each phase.

    Args:
        groups: group -> {"LR" | "SR" | "HR": {"lag": (lags,), "mean": (n_phases, lags)}}; "HR" also has "min" and "max" over the images. "SR seeds",
            of the same form as "HR", may be there: the band of several seeds of the noise.
        phases: names in label order.
        unit: of the lags.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(phases), 3.0 * len(groups) + 0.4), dpi=130, layout="constrained")
    panels = figure.subplots(len(groups), len(phases), squeeze=False)
    for row, (group, curves) in zip(panels, groups.items(), strict=True):
        for label, panel in enumerate(row):
            hr = curves["HR"]
            panel.fill_between(hr["lag"], hr["min"][label], hr["max"][label], color="0.85", label="HR images, min to max")
            if "SR seeds" in curves:
                seeds = curves["SR seeds"]
                panel.fill_between(seeds["lag"], seeds["min"][label], seeds["max"][label], color="#a8ccf0", label="SR, seeds, min to max")
            for name, style in LINE_STYLES.items():
                panel.plot(curves[name]["lag"], curves[name]["mean"][label], label=name, **style)
            panel.set_title(phases[label] if len(groups) == 1 else f"{phases[label]}, {group}")
            panel.set_ylim(bottom=0)
            panel.margins(x=0)
        row[0].set_ylabel("two-point correlation S2(r)")
    for panel in panels[-1]:
        panel.set_xlabel(f"r [{unit}]")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def plot_curves(path: str | os.PathLike, lag: np.ndarray, curves: Mapping[str, np.ndarray], phases: Sequence[str]) -> None:
    """Write a PNG of two-point correlations of several sources: a panel a phase, the mean of each source and the band of its members.

    Args:
        path: of the PNG.
        lag: (lags,) µm.
        curves: title -> (members, n_phases, lags): images or seeds.
        phases: names in label order.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(phases), 3.4), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(phases), squeeze=False)[0]
    for label, panel in enumerate(panels):
        for k, (title, members) in enumerate(curves.items()):
            low, middle, high = (reduce(members[:, label], axis=0) for reduce in (np.min, np.mean, np.max))
            if len(members) > 1:
                panel.fill_between(lag, low, high, color=f"C{k}", alpha=0.2, linewidth=0)
            panel.plot(lag, middle, color=f"C{k}", linestyle=("-", "--", ":")[k % 3], label=title)
        panel.set(title=phases[label], xlabel="r [µm]")
        panel.set_ylim(bottom=0)
        panel.margins(x=0)
    panels[0].set_ylabel("two-point correlation S2(r)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(curves), frameon=False)
    save_figure(figure, path)


def plot_reliability(path: str | os.PathLike, curves: Mapping[str, Mapping]) -> None:
    """Write a PNG of what is said to be right against what is (`bundle.trust.reliability`), and beneath it how often it is said.

    Args:
        path: of the PNG.
        curves: title -> {"said", "right", "share"} a bin.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 6.2), dpi=130, layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    above.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    for k, (title, curve) in enumerate(curves.items()):
        points = [(s, r, n) for s, r, n in zip(curve["said"], curve["right"], curve["share"]) if s is not None]
        said, right, share = zip(*points)
        style = {"color": f"C{k}", "linestyle": ("-", "--", ":")[k % 3], "marker": "o", "markersize": 4}
        above.plot(said, right, label=title, **style)
        below.plot(said, share, **style)
    above.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    below.set(xlabel="chance of being right, as said", ylabel="share of the voxels", ylim=(0, None))
    above.legend(frameon=False)
    save_figure(figure, path)


def plot_bands(path: str | os.PathLike, curves: Mapping[str, Mapping], phases: Sequence[str], step: float, unit: str, level: float) -> None:
    """Write a PNG of the curves of a set of images in the bands of the real ones: a row a kind of curve, a panel a phase.

    Args:
        path: of the PNG.
        curves: kind -> {"band": (2, n_phases, lags), "made": (n_phases, lags)}.
        phases: names in label order.
        step: length of a lag.
        unit: of it.
        level: share of what may be expected that the bands hold, 0..1.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(phases), 2.8 * len(curves) + 0.3), dpi=130, layout="constrained")
    for row, (kind, curve) in zip(figure.subplots(len(curves), len(phases), squeeze=False), curves.items(), strict=True):
        (low, high), made = np.array(curve["band"]), np.array(curve["made"])
        lag = step * np.arange(made.shape[1])
        for label, panel in enumerate(row):
            panel.fill_between(lag, low[label], high[label], color="0.7", linewidth=0, label=f"real images, {level:.0%}")
            panel.plot(lag, made[label], color="C3", label="the set")
            panel.set(title=phases[label], xlabel=f"r [{unit}]")
            panel.margins(x=0)
        row[0].set_ylabel(kind)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    save_figure(figure, path)


def plot_statistics(path: str | os.PathLike, groups: Mapping[str, Mapping], phases: Sequence[str]) -> None:
    """Write `statistics_figure` as a PNG."""
    save_figure(statistics_figure(groups, phases), path)


def statistics_figure(groups: Mapping[str, Mapping], phases: Sequence[str]):
    """Bars of the volume fractions and (log scale) interfacial areas as a matplotlib Figure: a row for each plane group.

    Args:
        groups: group -> result of `bundle.metrics.summarise`.
        phases: names in label order: the first statistics are their fractions.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4 * len(groups) + 0.4), dpi=130, layout="constrained")
    n_areas = len(phases) * (len(phases) - 1) // 2
    panels = figure.subplots(len(groups), 2, squeeze=False, width_ratios=(len(phases), max(n_areas, 1)))
    for row, (group, summary) in zip(panels, groups.items(), strict=True):
        names, rows = list(summary["statistics"]), list(summary["statistics"].values())
        for panel, part in zip(row, (slice(len(phases)), slice(len(phases), None)), strict=True):
            shown = rows[part]
            for place, (name, style) in enumerate((n, LINE_STYLES[n]) for n in ("LR", "SR", "HR")):
                at = np.arange(len(shown)) + 0.27 * (place - 1)
                colour = "0.45" if name == "HR" else style["color"]
                spread = [s["hr_std"] or 0 for s in shown] if name == "HR" else None
                panel.bar(at, [s[name.lower()] for s in shown], 0.25, yerr=spread, capsize=2, color=colour, label=name)
            # Names of the areas of 7 phases and more would lie on each other.
            panel.set_xticks(np.arange(len(shown)), names[part], rotation=20 if n_areas <= 15 else 45, ha="right")
        suffix = "" if len(groups) == 1 else f", {group}"
        row[0].set_title("volume fraction" + suffix)
        row[1].set_title("interfacial area / interior faces, LR on the HR grid" + suffix)
        row[1].set_yscale("log")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def svg(figure) -> bytes:
    """A matplotlib Figure as SVG, the same bytes each time."""
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "report"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells as a table of Markdown."""
    lines = ["|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" for row in (heads, *rows)]
    lines.insert(1, "|---" * len(heads) + "|")
    return "\n".join(lines) + "\n"


def format_table(summary: Mapping) -> str:
    """The statistics of `bundle.metrics.summarise` as plain text, one a line, the mean relative error last."""
    rows = summary["statistics"]
    wide = max(len(name) for name in [*rows, "mean relative error"])
    lines = [f"{'statistic':{wide}} {'HR mean':>10} {'HR std':>10} {'LR*':>10} {'SR':>10} {'LR error':>9} {'SR error':>9}"]
    for name, row in rows.items():
        values = " ".join(_cell(row[key], "10.5f") for key in ("hr", "hr_std", "lr", "sr"))
        lines.append(f"{name:{wide}} {values} {_cell(row['lr_error'], '9.1%')} {_cell(row['sr_error'], '9.1%')}")
    error = summary["mean_relative_error"]
    lines.append(f"{'mean relative error':{wide}} {'':43} {_cell(error['lr'], '9.1%')} {_cell(error['sr'], '9.1%')}")
    lines.append("* LR repeated to the HR grid (nearest neighbour): a face area depends on the voxel size")
    if "seeds" in summary:
        errors = ", ".join(_cell(error, ".1%") for error in summary["seeds"]["mean_relative_error"])
        lines.append(f"mean relative error of {summary['seeds']['number']} seeds of the noise: {errors}")
    if summary["left_out"]:
        lines.append(f"left out of the mean, 0 in HR: {', '.join(summary['left_out'])}")
    noise = summary["hr_noise"]
    if noise:
        errors = [error for error in noise["leave_one_out"] if error is not None]
        lines.append(
            f"noise of the HR images: as many drawn with replacement are off by {_cell(noise['bootstrap_median'], '.1%')} (median), "
            f"{_cell(noise['bootstrap_95'], '.1%')} (95th percentile); one image against the others by "
            f"{_cell(min(errors, default=None), '.0%')} to {_cell(max(errors, default=None), '.0%')}"
        )
    return "\n".join(lines)


def format_agreement(agreement: Mapping) -> str:
    """The result of `bundle.metrics.lr_agreement` as one line."""
    kept = ", ".join(f"{name} {_cell(share, '.1%')}" for name, share in agreement["kept"].items())
    return f"LR kept (majority of the SR block has the LR label): {kept}; all {agreement['all']:.1%}"


def _cell(value: float | None, spec: str) -> str:
    width = spec.split(".")[0]
    return f"{'-':>{width}}" if value is None else f"{value:{spec}}"


def _common_span(columns, plane: str, limit: float) -> tuple[float, float]:
    """(height, width) that every column which has the plane covers, at most `limit`."""
    spans = [[n * size[axis] for n, axis in zip(slices[plane].shape, PLANES[plane], strict=True)]
             for slices, size in columns.values() if plane in slices]  # fmt: skip
    return tuple(min([limit, *extent]) for extent in zip(*spans, strict=True))


def _middle(labels: np.ndarray, shown: Sequence[float]) -> np.ndarray:
    """What a panel shows of a plane, (rows, columns) pixels around its middle, and a pixel beyond: of a large volume the rest is never coloured."""
    cut = [max(0, int((n - extent) / 2) - 1) for n, extent in zip(labels.shape, shown)]
    return labels[tuple(slice(c, n - c) for c, n in zip(cut, labels.shape))]


def bar_length(width: float) -> float:
    """Of a scale bar: 1, 2 or 5 x 10^k units, at most a third of the width."""
    power = 10.0 ** np.floor(np.log10(width / 3))
    return max(step * power for step in (1, 2, 5) if step * power <= width / 3 * (1 + 1e-9))  # 0.3 / 3 is a hair below 0.1


def _scale_bar(panel, width: float, height: float, unit: str) -> None:
    """A bar in the lower left corner of a panel."""
    length = bar_length(width)
    left, bottom, pad = -width / 2, height / 2, width / 40
    panel.fill_between([left, left + length + 2 * pad], bottom, bottom - 4.5 * pad, color="white", zorder=3)
    panel.fill_between([left + pad, left + pad + length], bottom - pad, bottom - 1.8 * pad, color="black", zorder=4)
    panel.text(left + pad + length / 2, bottom - 2.1 * pad, f"{length:g} {unit}", ha="center", va="bottom", fontsize=8, zorder=4)


def save_figure(figure, path: str | os.PathLike) -> None:
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png")
