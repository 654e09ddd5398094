"""Exception hierarchy. Every error shown to a user is one of these, and each kind has its exit code.

CompressError            1  something inside `compress` went wrong
├── ProfileError         2  the profile is wrong (reports all faults at once); 4 if only its data or models are
├── UsageError           2  a command was called incorrectly
├── BudgetMissed         3  the run is complete, but a limit of `budget` was missed
│   └── NotJudged        3  the run is complete, but a limit could not be judged
├── DataError            4  the data cannot be used as declared
│   └── DataErrors       4  several faults of the data at once
├── ModelError           4  a model cannot be found, loaded or used as declared
├── TargetError          5  a target is missing, or failed while it was measured
├── PassError            6  a pass violated its contract
├── ResourceError        7  the disk is full, memory ran out, or a request limit of a server is reached
└── RunInterrupted     130  the user stopped the run
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CompressError(Exception):
    """Base of all errors shown to users.

    Args:
        message: what is wrong and what was expected, in one sentence.
        where: location of the fault: `file:line`, a profile key or a path.
        hint: what to do next; None if the message already says it.
        code: stable identifier of the fault, such as `tokenizer-setting`, for scripts and tests to match.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, where: str | None = None, hint: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        text += f" [{self.code}]" if self.code else ""
        return f"{text}\n  {self.hint}" if self.hint else text


@dataclass(frozen=True)
class Fault:
    """One fault of a profile: `file:line: path: message [code]`."""

    file: str
    line: int | None
    path: str
    message: str
    code: str | None = None
    exit_code: int = 2
    """Exit code if this is the only fault: 2 for an error in the profile, 4 for an error in the data or a model."""

    def __str__(self) -> str:
        location = self.file if self.line is None else f"{self.file}:{self.line}"
        text = f"{location}: {self.path}: {self.message}" if self.path else f"{location}: {self.message}"
        return f"{text} [{self.code}]" if self.code else text


class ProfileError(CompressError):
    """The profile, or data or a model that it names, is wrong; `faults` holds every fault in the order of the file."""

    exit_code = 2

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        self.exit_code = min((fault.exit_code for fault in faults), default=self.exit_code)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class UsageError(CompressError):
    """A command was called incorrectly."""

    exit_code = 2


class BudgetMissed(CompressError):
    """The run is complete, but a limit of its budget was missed."""

    exit_code = 3


class NotJudged(BudgetMissed):
    """The run is complete, but a limit could not be judged, because of a busy machine or an unusable baseline."""

    def __init__(self, message: str, *, where: str | None = None) -> None:
        hint = "If no better machine is available, `--allow-unjudged` accepts this."
        super().__init__(message, where=where, hint=hint, code="not-judged")


class DataError(CompressError):
    """The data cannot be used as declared."""

    exit_code = 4


class DataErrors(DataError):
    """Several faults of the data at once.

    Args:
        faults: all faults, in the order in which they were found.
        shown: the faults that the message lists, with the rest summarized by number.
    """

    def __init__(self, faults: Sequence[DataError], shown: Sequence[DataError]) -> None:
        self.faults = tuple(faults)
        self.shown = tuple(shown)
        super().__init__("\n".join(map(str, shown)))


class ModelError(CompressError):
    """A model cannot be found, loaded or used as declared."""

    exit_code = 4


class TargetError(CompressError):
    """A target is missing, or failed while it was measured."""

    exit_code = 5


class PassError(CompressError):
    """A pass violated its contract: its result is not what its spec declares."""

    exit_code = 6


class ResourceError(CompressError):
    """Disk, memory or the request limit of a server is exhausted; with more of it, the same command resumes."""

    exit_code = 7


class RunInterrupted(CompressError):
    """The user stopped the run; when started again it resumes from its last checkpoint."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def error_text(error: BaseException) -> str:
    """Return the text of an error for records: the message, with the class name unless it is a `CompressError`."""
    return str(error) if isinstance(error, CompressError) else f"{type(error).__name__}: {error}"
