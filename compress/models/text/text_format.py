"""What is done to a text before its tokenizer sees it, and at which end long texts are cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from compress.core.errors import ModelError

SECTION = "texts"
"""The section of `task.json`; it is left out where texts are taken as they are and cut on the right."""


@dataclass(frozen=True)
class TextFormat:
    """In this order: `prefix` is put before a text, blanks at its ends are stripped, letters are made lower case. What
    does not fit is cut off at the end `cut`."""

    prefix: str = ""
    strip: bool = False
    lowercase: bool = False
    cut: Literal["left", "right"] = "right"

    @staticmethod
    def of(task: Mapping[str, Any]) -> TextFormat:
        """The format that a `task.json` declares.

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
        """What `task.json` holds of it: nothing where nothing is done."""
        if self == TextFormat():
            return {}
        said = {"prefix": self.prefix, "strip": self.strip, "lowercase": self.lowercase, "cut": self.cut}
        return {SECTION: said}

    def prepared(self, texts: Sequence[str]) -> list[str]:
        """The texts as the tokenizer gets them."""
        made = [self.prefix + text for text in texts]
        if self.strip:
            made = [text.strip() for text in made]
        return [text.lower() for text in made] if self.lowercase else made
