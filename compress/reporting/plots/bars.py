"""Horizontal bars on a logarithmic axis, one per row, for quantities that span several orders of magnitude."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from compress.reporting.plots.style import ACCENT, MUTED, new_figure
from compress.reporting.render.document import BarPlot


def draw_bars(plot: BarPlot) -> Figure:
    """Draw the bars from top to bottom; marked ones are highlighted and explained by a legend."""
    figure = new_figure(5.6, 0.9 + 0.19 * len(plot.bars))
    axes = figure.add_subplot()
    positions = range(len(plot.bars))
    axis_start = min((bar.value for bar in plot.bars if bar.value > 0), default=1.0) / 2
    for position, bar in zip(positions, plot.bars, strict=True):
        colour = ACCENT if bar.marked else MUTED
        axes.barh(
            position,
            max(bar.value, axis_start) - axis_start,
            left=axis_start,
            height=0.7,
            color=colour,
            linewidth=0,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(list(positions), [bar.label for bar in plot.bars], fontsize=8)
    axes.set_ylim(len(plot.bars) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(plot.axis_label)
    words = ((ACCENT, plot.marked, True), (MUTED, plot.unmarked, False))
    shown = [(colour, text) for colour, text, mark in words if any(bar.marked == mark for bar in plot.bars)]
    figure.legend(
        handles=[Patch(color=colour) for colour, _ in shown],
        labels=[text for _, text in shown],
        loc="outside upper left",
        ncols=2,
        frameon=False,
        fontsize=8.5,
    )
    return figure
