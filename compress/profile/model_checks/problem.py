"""Problems of a model, independent of the check that finds them."""

from __future__ import annotations

from dataclasses import dataclass

from compress.core.errors import ModelError
from compress.profile.yaml_lines import KeyPath


@dataclass(frozen=True)
class Problem:
    """What is wrong and what to do, as one sentence, and the error code."""

    message: str
    code: str

    def error(self, where: str) -> ModelError:
        """Return the error for the model at `where`."""
        return ModelError(self.message, where=where, code=self.code)


ProblemAt = tuple[KeyPath, Problem]
"""A problem of a model, and the path in the profile of the key that names the model."""
