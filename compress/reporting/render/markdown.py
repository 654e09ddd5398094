"""Render a document as Markdown, with the same sentences and tables; plots as text."""

from __future__ import annotations

import re

from compress.bundles.markdown import markdown_text as escape
from compress.core.terminal.printing import printable
from compress.reporting.render.document import Cell, Code, Document, Section, Table


def markdown(document: Document) -> str:
    """Return the report as GitHub-flavoured Markdown. Everything from the records is escaped."""
    blocks = [f"# {escape(document.title)}: {escape(document.status)}", escape(document.subtitle)]
    blocks += [escape(verdict) for verdict in document.verdicts]
    if document.tiles:
        blocks.append(
            "\n".join(
                f"- **{escape(tile.value)} {escape(tile.label)}**: {escape(tile.detail)}"
                for tile in document.tiles
            )
        )
    for section in document.sections:
        blocks += _section(section)
    return "\n\n".join(blocks) + "\n"


def table(content: Table) -> str:
    """Return one table with its caption above it."""
    alignments = [
        "---" if n == 0 or n in content.text_columns else "---:" for n in range(len(content.columns))
    ]
    lines = [" | ".join(escape(column) for column in content.columns), " | ".join(alignments)]
    lines += [" | ".join(_cell(cell) for cell in row.cells) for row in content.rows]
    return f"{escape(content.caption)}\n\n" + "\n".join(f"| {line} |" for line in lines)


def _section(section: Section) -> list[str]:
    blocks = [f"## {escape(section.title)}", *(escape(paragraph) for paragraph in section.paragraphs)]
    blocks += [f"*{escape(figure.caption)}* {escape(figure.alt)}" for figure in section.figures]
    blocks += [table(content) for content in section.tables]
    if section.code is not None:
        blocks.append(_fenced(section.code))
    return blocks


def _cell(cell: Cell) -> str:
    return f"{escape(cell.text)} ({escape(cell.detail)})" if cell.detail else escape(cell.text)


def _fenced(code: Code) -> str:
    longest = max((len(run) for run in re.findall(r"`+", code.text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{code.language}\n{printable(code.text)}\n{fence}"
