"""The error tree. Every error a user can meet is one of these, and each has the exit code of its kind.

CompressError            1  something inside `compress` went wrong
├── ProfileError         2  the profile is wrong (all its faults at once); 4 if only data or models are
├── UsageError           2  a command was called wrongly
├── BudgetMissed         3  the run is complete, and a limit of `budget` was missed
│   └── NotJudged        3  the run is complete, and a limit could not be judged
├── DataError            4  the data cannot be used as declared
│   └── DataErrors       4  in several ways at once
├── ModelError           4  a model cannot be found, loaded or used as declared
├── TargetError          5  a target is missing, or failed while it was measured
├── PassError            6  a pass broke its promise
├── ResourceError        7  the disk is full, memory ran out, or a server may be asked no more
└── RunInterrupted     130  the user stopped the run
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CompressError(Exception):
    """An error for a user: what is wrong, where, what was expected and what to do next.

    Args:
        message: what is wrong and what was expected, one sentence.
        where: `file:line`, a key of the profile, or a path; None where there is none.
        hint: what to do next; None where the message says it.
        code: the fault's short name, as `tokenizer-setting`: what scripts and tests match, whatever the sentence says.
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
    """That of a run which this fault alone ends: 2 where the profile is wrong, 4 where the data or a model is."""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        text = f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"
        return f"{text} [{self.code}]" if self.code else text


class ProfileError(CompressError):
    """The profile is wrong, or what it names; `faults` holds every fault that was found, in the order of the file."""

    exit_code = 2

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        self.exit_code = min((fault.exit_code for fault in faults), default=self.exit_code)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class UsageError(CompressError):
    """A command was called wrongly."""

    exit_code = 2


class BudgetMissed(CompressError):
    """The run is complete, and a limit of its budget was missed."""

    exit_code = 3


class NotJudged(BudgetMissed):
    """The run is complete, and a limit could not be judged: a busy machine, or a baseline that is of no use."""

    def __init__(self, message: str, *, where: str | None = None) -> None:
        hint = "If no better machine is available, `--allow-unjudged` accepts this."
        super().__init__(message, where=where, hint=hint, code="not-judged")


class DataError(CompressError):
    """The data cannot be used as declared."""

    exit_code = 4


class DataErrors(DataError):
    """Several faults of the data at once.

    Args:
        faults: each of them, in the order in which they were found.
        shown: those that are told, and how many more there are.
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
    """A pass broke its promise: its result is not what its spec says it produces."""

    exit_code = 6


class ResourceError(CompressError):
    """The disk is full, memory ran out, or a server may be asked no more; with more, the same command goes on."""

    exit_code = 7


class RunInterrupted(CompressError):
    """The user stopped the run; started again, it goes on from its last checkpoint."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """What an error says first; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def in_words(error: BaseException) -> str:
    """What a record keeps of an error: the message of one of ours, else its kind too."""
    return str(error) if isinstance(error, CompressError) else f"{type(error).__name__}: {error}"
