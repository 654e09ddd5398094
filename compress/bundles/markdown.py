"""Texts of others in Markdown: the cards of bundles, and reports."""

from __future__ import annotations

import re

from compress.core.terminal.printing import printable


def markdown_text(text: str) -> str:
    """Return the text on one line, with all Markdown markup escaped."""
    text = printable(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)|^[#+-](?=\s)|^\d+(?=[.)]\s)", r"\\\g<0>", text)
