"""Text preprocessing before tokenization, and the side on which long texts are truncated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from compress.core.errors import ModelError

SECTION = "texts"
"""Section of `task.json`; omitted if texts are not changed and are truncated on the right."""


@dataclass(frozen=True)
class TextFormat:
    """Text preprocessing, in this order: prepend `prefix`, strip whitespace at the ends, lower-case.

    Texts that are too long are truncated on the side `cut`.
    """

    prefix: str = ""
    strip: bool = False
    lowercase: bool = False
    cut: Literal["left", "right"] = "right"

    @staticmethod
    def of(task: Mapping[str, Any]) -> TextFormat:
        """Return the format declared in a `task.json`.

        Raises:
            ModelError: its section is damaged.
        """
        said = task.get(SECTION, {})
        known = isinstance(said, dict) and said.keys() <= {"prefix", "strip", "lowercase", "cut"}
        if known:
            prefix, cut = said.get("prefix", ""), said.get("cut", "right")
            strip, lowercase = said.get("strip", False), said.get("lowercase", False)
            if (
                isinstance(prefix, str)
                and cut in ("left", "right")
                and {type(strip), type(lowercase)} == {bool}
            ):
                return TextFormat(prefix, strip, lowercase, cast(Literal["left", "right"], cut))
        raise ModelError(
            "expected `texts` to hold a prefix, strip and lowercase (true or false), cut (left or right)",
            where="task.json",
        )

    def section(self) -> dict[str, Any]:
        """Return the section of `task.json`; empty for the default format."""
        if self == TextFormat():
            return {}
        said = {"prefix": self.prefix, "strip": self.strip, "lowercase": self.lowercase, "cut": self.cut}
        return {SECTION: said}

    def prepared(self, texts: Sequence[str]) -> list[str]:
        """Return the texts as passed to the tokenizer."""
        made = [self.prefix + text for text in texts]
        if self.strip:
            made = [text.strip() for text in made]
        return [text.lower() for text in made] if self.lowercase else made
