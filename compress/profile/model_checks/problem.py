"""What is wrong with a model, whoever finds it."""

from __future__ import annotations

from dataclasses import dataclass

from compress.core.errors import ModelError
from compress.profile.yaml_lines import Path_


@dataclass(frozen=True)
class Problem:
    """What is wrong and what to do, as one sentence, and its code."""

    message: str
    code: str

    def error(self, where: str) -> ModelError:
        """The error of the model that stands at `where`."""
        return ModelError(self.message, where=where, code=self.code)


Placed = tuple[Path_, Problem]
"""A problem of a model, and the key of the profile that names the model."""
