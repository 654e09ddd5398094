"""Render a document as one self-contained HTML page, without scripts or external resources, for light and dark mode."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from compress.core.terminal.printing import printable
from compress.reporting.plots.plots import draw
from compress.reporting.render.document import Document

_TEMPLATES = Path(__file__).parent / "templates"


def html(document: Document) -> str:
    """Return the page. Everything from the records is escaped; plots and style sheet are inserted verbatim."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_escape_control_characters,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = _with_no_break_spaces
    plots = {
        (section.key, number): draw(figure.plot, f"{section.key}-{number}")
        for section in document.sections
        for number, figure in enumerate(section.figures)
    }
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(document=document, plots=plots, style=style)


def _escape_control_characters(value: object) -> object:
    """Escape control and bidirectional formatting characters in texts; plots and style sheet are unchanged."""
    return printable(value) if type(value) is str else value


def _with_no_break_spaces(text: str) -> str:
    """Use no-break spaces between a number and its unit, and inside `p = 0.03`."""
    return re.sub(r"(?<=\d) (?=%|(?:ms|MB|s|min|h)\b)|(?<=\bp) (?=[=<] )|(?<=\bp [=<]) ", "\u00a0", text)
