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

    Texts that are too long are truncated on the side `truncation_side`.
    """

    prefix: str = ""
    strip: bool = False
    lowercase: bool = False
    truncation_side: Literal["left", "right"] = "right"

    @staticmethod
    def of(task: Mapping[str, Any]) -> TextFormat:
        """Return the format declared in a `task.json`.

        Raises:
            ModelError: its section is damaged.
        """
        section = task.get(SECTION, {})
        is_valid = isinstance(section, dict) and section.keys() <= {"prefix", "strip", "lowercase", "cut"}
        if is_valid:
            prefix, truncation_side = section.get("prefix", ""), section.get("cut", "right")
            strip, lowercase = section.get("strip", False), section.get("lowercase", False)
            if (
                isinstance(prefix, str)
                and truncation_side in ("left", "right")
                and {type(strip), type(lowercase)} == {bool}
            ):
                return TextFormat(prefix, strip, lowercase, cast(Literal["left", "right"], truncation_side))
        raise ModelError(
            "expected `texts` to hold a prefix, strip and lowercase (true or false), cut (left or right)",
            where="task.json",
        )

    def section(self) -> dict[str, Any]:
        """Return the section of `task.json`; empty for the default format."""
        if self == TextFormat():
            return {}
        values = {
            "prefix": self.prefix,
            "strip": self.strip,
            "lowercase": self.lowercase,
            "cut": self.truncation_side,
        }
        return {SECTION: values}

    def preprocess(self, texts: Sequence[str]) -> list[str]:
        """Return the texts as passed to the tokenizer."""
        processed = [self.prefix + text for text in texts]
        if self.strip:
            processed = [text.strip() for text in processed]
        return [text.lower() for text in processed] if self.lowercase else processed
