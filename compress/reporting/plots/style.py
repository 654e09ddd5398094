"""Style shared by all plots: axes, and placeholder colours that the page replaces."""

from __future__ import annotations

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Placeholder colours for matplotlib; in the SVG they are replaced by variables of the page's style sheet.
INK, MUTED, GRID, ACCENT, GOOD, BAD, SURFACE = (f"#0{n}0{n}0{n}" for n in "1234567")
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    ACCENT: "var(--accent)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
    SURFACE: "var(--surface)",
}
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure that can be saved as SVG."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasSVG(figure)
    return figure
