"""Plots of a report as inline SVG that inherits colours and font from the page."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from compress.core.terminal.printing import printable
from compress.reporting.plots.bars import draw_bars
from compress.reporting.plots.style import (
    ACCENT,
    BAD,
    GOOD,
    INK,
    MUTED,
    STYLE,
    SURFACE,
    VARIABLES,
    new_figure,
)
from compress.reporting.render.document import (
    BarPlot,
    BubblePlot,
    Plot,
    Point,
    Scatter,
    TrainingPlot,
    Waterfall,
)

_LABEL_OFFSETS = (
    (8, 7),
    (8, -7),
    (-8, 7),
    (-8, -7),
    (0, 18),
    (0, -18),
    (10, 22),
    (10, -22),
    (-10, 22),
    (-10, -22),
    (10, 36),
    (10, -36),
    (-24, 12),
    (0, 30),
)
"""Candidate offsets of a label from its point, in points (1/72 inch), best first."""
_MAX_BUBBLE_AREA, _MIN_BUBBLE_AREA = 900.0, 24.0  # area in square points (1/72 inch)
_LOG_FROM = 3.0  # values that span a larger factor are shown on a logarithmic axis
_LOG_LOSSES = 100.0  # the same for losses, which span a large factor by themselves


def draw(plot: Plot, name: str) -> str:
    """Return the plot as an `<svg>` element; `name` makes its ids distinct from those of other plots on the page."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = _RENDERERS[type(plot)](plot)
        stream = io.StringIO()
        figure.savefig(
            stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return _inline(stream.getvalue())


def _scatter(plot: Scatter) -> Figure:
    figure = new_figure(4.8, 3.4)
    axes = figure.add_subplot()
    chain = [point for point in plot.points if point.role in ("baseline", "step")]
    axes.plot(
        [p.x[0] for p in chain], [p.y[0] for p in chain], color=MUTED, linewidth=1, linestyle=(0, (4, 3))
    )
    for point in plot.points:
        axes.errorbar(
            point.x[0],
            point.y[0],
            xerr=_error_bar(point.x),
            yerr=_error_bar(point.y),
            fmt={"baseline": "s", "step": "o", "control": "D", "variant": "^"}[point.role],
            color=_colour(point),
            markerfacecolor=SURFACE if point.role in ("control", "variant") else _colour(point),
            markersize=7,
            elinewidth=1,
            linewidth=0,
            zorder=3,
        )
    xs = [point.x[0] for point in plot.points]
    _scale_x(axes, xs)
    axes.margins(x=0.14, y=0.16)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    _label_points(figure, axes, plot.points)
    return figure


def _bubble_plot(plot: BubblePlot) -> Figure:
    figure = new_figure(6.4, 3.6)
    axes = figure.add_subplot()
    largest = max(point.size for point in plot.points) or 1.0
    front = sorted((point for point in plot.points if point.on_front), key=lambda point: point.x[0])
    axes.plot([p.x[0] for p in front], [p.y[0] for p in front], color=MUTED, linewidth=1, zorder=1)
    # Largest first, so that no bubble hides a smaller one.
    for point in sorted(plot.points, key=lambda point: -point.size):
        axes.scatter(
            point.x[0],
            point.y[0],
            s=_bubble_area(point, largest),
            facecolor=ACCENT if point.on_front else SURFACE,
            edgecolor=ACCENT if point.on_front else MUTED,
            linewidth=1.2,
            alpha=0.75,
            zorder=3,
        )
    _scale_x(axes, [point.x[0] for point in plot.points])
    axes.margins(x=0.16, y=0.24)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    radii = [math.sqrt(_bubble_area(point, largest) / math.pi) * figure.dpi / 72 for point in plot.points]
    _label_points(figure, axes, plot.points, radii)
    return figure


def _bubble_area(point: Point, largest: float) -> float:
    """Return the area of a bubble in square points."""
    return max(_MAX_BUBBLE_AREA * point.size / largest, _MIN_BUBBLE_AREA)


def _label_points(
    figure: Figure, axes: Axes, points: Sequence[Point], radii: Sequence[float] | None = None
) -> None:
    """Place each label beside its point so that it hides neither points nor labels placed before it.

    `radii` are the radii of the points in pixels; None for small markers.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    frame = axes.get_window_extent()
    centres = [(float(x), float(y)) for x, y in axes.transData.transform([(p.x[0], p.y[0]) for p in points])]
    occupied = [
        Bbox.from_extents(x - r, y - r, x + r, y + r)
        for (x, y), r in zip(centres, radii or [5.0] * len(centres), strict=True)
    ]
    bars = []
    for point, (x, _) in zip(points, centres, strict=True):
        low, high = (axes.transData.transform((point.x[0], end))[1] for end in point.y[1:])
        bars.append(Bbox.from_extents(x - 1, low, x + 1, high))
    for label, point in _merge_labels(points, centres):
        best: tuple[int, Annotation, Bbox] | None = None
        for dx, dy in _LABEL_OFFSETS:
            text = axes.annotate(
                label,
                (point.x[0], point.y[0]),
                xytext=(dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                va="bottom" if dy > 0 else "top",
                fontsize=9,
                color=INK if point.role == "step" else _colour(point),
                zorder=4,
            )
            box = text.get_window_extent()
            outside = box.x0 < frame.x0 or box.x1 > frame.x1 + 6 or box.y0 < frame.y0 or box.y1 > frame.y1 + 6
            penalty = (
                3 * sum(box.overlaps(other) for other in occupied)
                + sum(box.overlaps(bar) for bar in bars)
                + 9 * outside
            )
            if best is not None and penalty >= best[0]:
                text.remove()
                continue
            if best is not None:
                best[1].remove()
            best = (penalty, text, box)
            if penalty == 0:
                break
        if best is not None:
            occupied.append(best[2])


def _merge_labels(points: Sequence[Point], centres: Sequence[Sequence[float]]) -> list[tuple[str, Point]]:
    """Return one label for overlapping points: `quantize, export`."""
    groups: list[tuple[list[str], Point, Sequence[float]]] = []
    for point, centre in zip(points, centres, strict=True):
        for names, first, group_center in groups:
            if first.role == point.role and math.dist(group_center, centre) < 6:
                names.append(point.label)
                break
        else:
            groups.append(([point.label], point, centre))
    return [(", ".join(names), point) for names, point, _ in groups]


def _waterfall(plot: Waterfall) -> Figure:
    changes = plot.changes
    figure = new_figure(4.5, 0.95 + 0.42 * len(changes))
    axes = figure.add_subplot()
    positions = range(len(changes))
    for position, change in zip(positions, changes, strict=True):
        better = (change.after > change.before) == plot.larger_is_better
        colour = MUTED if not change.is_significant else GOOD if better else BAD
        low, high = sorted((change.before, change.after))
        axes.barh(position, high - low, left=low, height=0.56, color=colour, linewidth=0, zorder=2)
        axes.plot([change.after] * 2, [position - 0.28, position + 0.28], color=INK, linewidth=1.4, zorder=3)
        if position + 1 < len(changes):
            axes.plot(
                [change.after] * 2, [position + 0.28, position + 0.72], color=MUTED, linewidth=0.8, zorder=1
            )
        axes.annotate(
            change.text,
            (high, position),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            zorder=4,
        )
    values = [value for change in changes for value in (change.before, change.after)]
    if plot.ratio:
        _scale_x(axes, values)
    else:
        axes.axvline(0, color=MUTED, linewidth=0.8, zorder=1)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(_plain_number))
    axes.use_sticky_edges = False
    axes.autoscale_view()
    low, high = axes.get_xlim()
    margin = 0.16  # for the labels to the right of the bars
    if axes.get_xscale() == "log":
        axes.set_xlim(low, high * (high / low) ** margin)
    else:
        axes.set_xlim(low, high + (high - low) * margin)
    axes.set_yticks(list(positions), [change.label for change in changes])
    axes.set_ylim(len(changes) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(plot.axis_label)
    return figure


def _training(plot: TrainingPlot) -> Figure:
    has_scores = any(curve.scores for curve in plot.curves)
    has_losses = any(curve.losses for curve in plot.curves)
    figure = new_figure(4.5, 3.2 if has_scores and has_losses else 2.2)
    panels = figure.subplots(2 if has_scores and has_losses else 1, 1, sharex=True, squeeze=False)[:, 0]
    if has_scores:
        _draw_scores(panels[0], plot)
    if has_losses:
        axes = panels[-1]
        for curve in plot.curves:
            axes.plot(curve.steps, curve.losses, color=INK, linewidth=1.4)
        _scale_losses(axes, [loss for curve in plot.curves for loss in curve.losses])
        axes.set_ylabel("training\nloss")
    panels[-1].set_xlabel("step")
    _separate_runs(list(panels), plot)
    panels[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    figure.align_ylabels()
    return figure


def _draw_scores(axes: Axes, plot: TrainingPlot) -> None:
    """Draw all scores, and highlight the best one of the last training run with scores, whose weights are kept."""
    for curve in plot.curves:
        axes.plot(curve.score_steps, curve.scores, color=ACCENT, linewidth=1.6, marker="o", markersize=3.5)
    last = [curve for curve in plot.curves if curve.scores][-1]
    best = (min if plot.smaller_is_better else max)(range(len(last.scores)), key=last.scores.__getitem__)
    axes.plot(last.score_steps[best], last.scores[best], color=GOOD, marker="o", markersize=8, zorder=3)
    axes.annotate(
        f"{last.scores[best]:.1f}" if "%" in plot.score_label else f"{last.scores[best]:.3f}",
        (last.score_steps[best], last.scores[best]),
        xytext=(0, -9),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=9,
    )
    axes.margins(y=0.2)
    axes.set_ylabel(plot.score_label.replace("validation ", "validation\n"))
    _plain_ticks(axes)


def _scale_losses(axes: Axes, losses: Sequence[float]) -> None:
    """Use a logarithmic axis if losses of stages differ by orders of magnitude."""
    if min(losses) > 0 and max(losses) / min(losses) > _LOG_LOSSES:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=4))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(_plain_number))
    else:
        _plain_ticks(axes)


def _separate_runs(panels: Sequence[Axes], plot: TrainingPlot) -> None:
    """Draw a line between consecutive training runs, and their names above."""
    if len(plot.curves) < 2:
        return
    begin = 0
    for number, course in enumerate(plot.curves):
        end = max((*course.steps, *course.score_steps, begin))
        if number:
            for axes in panels:
                axes.axvline(begin, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        panels[0].annotate(
            course.name,
            ((begin + end) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=9,
        )
        begin = end


def _plain_ticks(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(_plain_number))


def _scale_x(axes: Axes, values: Sequence[float]) -> None:
    """Use a logarithmic axis with plain numbers if the values span more than a small factor."""
    if max(values) / min(values) >= _LOG_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(
            LogLocator(subs=(1.0, 2.0, 5.0) if max(values) / min(values) < 500 else (1.0,))
        )
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(_plain_number))


def _plain_number(value: float, _: int | None = None) -> str:
    return f"{value:.6g}".replace("-", "−")


def _error_bar(ends: tuple[float, float, float]) -> list[list[float]]:
    value, low, high = ends
    return [[max(value - low, 0.0)], [max(high - value, 0.0)]]


def _colour(point: Point) -> str:
    return {"baseline": MUTED, "step": ACCENT, "control": BAD, "variant": BAD}[point.role]


def _inline(svg: str) -> str:
    """Return the bare `<svg>` element, without prolog, metadata and namespaces, in the page's colours and font."""
    svg = printable(svg[svg.index("<svg") :].strip())
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", head)
    rest = re.sub(r"<[^>]+>", lambda tag: _inline_tag(tag.group(), used), rest)
    return f'{head} role="img" focusable="false">{rest}'


def _inline_tag(tag: str, used: set[str]) -> str:
    """Convert one tag to the page's colours and font, and drop its id if nothing refers to it."""
    for placeholder, variable in VARIABLES.items():
        tag = tag.replace(placeholder, variable)
    tag = re.sub(r"(font: [^;\"']*?px) [^;\"]*", r"\1 var(--font)", tag)
    tag = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", tag)
    return re.sub(r' id="([^"]*)"', lambda found: found.group() if found.group(1) in used else "", tag)


_RENDERERS: Mapping[type[Plot], Callable[[Any], Figure]] = {
    Scatter: _scatter,
    BubblePlot: _bubble_plot,
    Waterfall: _waterfall,
    BarPlot: draw_bars,
    TrainingPlot: _training,
}
