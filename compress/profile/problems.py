"""What is wrong with what a profile names, as far as files on this machine tell: where, why, by which code."""

from __future__ import annotations

from dataclasses import dataclass

from compress.errors import Fault, ModelError
from compress.profile.source import Path_, ProfileSource


@dataclass(frozen=True)
class Problem:
    """One thing that a run would end with."""

    path: Path_
    message: str
    code: str
    exit_code: int = ModelError.exit_code

    def at(self, source: ProfileSource) -> Fault:
        """The fault, with its line in the profile."""
        return source.fault(self.path, self.message, self.code, self.exit_code)
