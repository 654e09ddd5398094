"""Lines of a starter profile that several tasks share."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from compress.starter.choices import StudentShape, choose_labels, choose_max_length, choose_student
from compress.starter.detection import Detected

_PLAIN_SCALAR = re.compile(r"[A-Za-z0-9_./~][\w./~:+-]*")
SPLIT_KEYS = "  # splits: {validation: 0.1, test: 0.2}   # fractions to make, or names of splits that exist\n"
FORMAT_KEYS = (
    '  # separator: ";"              # between the fields of a csv file; unset: as its first rows tell\n'
    "  # encoding: cp1252            # of text files; unset: detected in each file\n"
)
"""Commented-out keys for the format of text files."""


def text_keys(detected: Detected) -> Iterator[str]:
    """Yield the text columns: a pair with its score if the table has one, else one text column."""
    columns = detected.columns
    if columns.pair is not None:
        pair = ", ".join(map(scalar, columns.pair))
        yield f"  pair_columns: [{pair}]   # two texts, whose similarity the score gives\n"
        yield key_line("score_column", columns.score, "score", "the column with the similarity")
    else:
        yield key_line("text_column", columns.text, "text", "the column that holds the text")


def label_keys(detected: Detected, example_names: str) -> Iterator[str]:
    """Yield the label column and the label names; `example_names` are example names."""
    yield key_line("label_column", detected.columns.label, "label", "the column that holds the label")
    names = choose_labels(detected.model, detected.splits.labels if detected.splits else ()).names
    if names is None:
        yield f"  # labels: [{example_names}]   # names, where the data holds numbers: 0 is the first\n"
    else:
        yield f"  labels: [{', '.join(map(scalar, names))}]   # the names that the model has for 0, 1, ...\n"


def length_keys(detected: Detected) -> Iterator[str]:
    """Yield how texts are split, read and truncated."""
    yield SPLIT_KEYS + FORMAT_KEYS
    length, reason = choose_max_length(detected.splits.train.texts if detected.splits else (), detected.model)
    yield f"  max_length: {length:<18}# {reason}\n"


def head_keys(detected: Detected, settings: str, example_names: str) -> Iterator[str]:
    """Yield whether the teacher is fine-tuned on the labels first (`settings`), and the names of its outputs."""
    choice = choose_labels(detected.model, detected.splits.labels if detected.splits else ())
    if choice.finetune:
        yield "  # Delete this line if the model already classifies the data's labels.\n"
        yield f"  finetune: {settings}\n"
    else:
        yield f"  # Not fine-tuned: {choice.reason}. To train it on the data first:\n"
        yield f"  # finetune: {settings}\n"
    yield (
        f"  # labels: [{example_names}]   # names of its outputs in order, if its config calls them "
        "LABEL_0, LABEL_1\n"
    )


def pass_lines(
    detected: Detected,
    default_student: StudentShape,
    training_lines: str,
    later_passes: str = "",
    *,
    vocabulary: bool = True,
) -> Iterator[str]:
    """Yield the passes before quantization; none if the model family cannot be taken apart.

    Args:
        default_student: shape of a student of this task.
        training_lines: lines of the distillation's training settings.
        later_passes: lines of passes after distillation.
        vocabulary: whether the model has a vocabulary.
    """
    model = detected.model
    if model.why_whole is not None:
        yield (
            f"  # {one_line(model.why_whole)}.\n  # So it is quantized whole; a student of another family "
            "may be named:\n"
        )
        yield "  # - distill: {student: {model: path/or/hub-id}, losses: [{logits: {}}, {labels: {}}]}\n"
        return
    student = choose_student(model, default_student)
    width = f", hidden_size: {student.hidden}" if student.hidden is not None else ""
    yield "  - distill:                    # train a smaller student from the teacher\n"
    yield f"      student: {{layers: {student.layers}{width}, from: teacher}}\n"
    if vocabulary:
        trimmable = model.tokenizer in (None, "WordPiece")
        yield (
            "      vocabulary: trim          # keep the tokens that the data uses, and a margin\n"
            if trimmable
            else f"      # The vocabulary of a {model.tokenizer} tokenizer cannot be trimmed: it is kept.\n"
        )
    yield training_lines
    yield later_passes


def key_line(key: str, value: str | None, default: str, comment: str) -> str:
    """Return a line with a key, commented out if it has the default value."""
    entry = f"{key}: {scalar(value or default)}"
    prefix = "# " if value in (None, default) else ""
    return f"  {prefix}{entry:<{29 - len(prefix)}} # {comment}\n"


def one_line(text: str) -> str:
    """Return foreign text as a single line that is safe in a comment."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def scalar(text: str) -> str:
    """Return the text as a YAML scalar on one line, quoted where it could be read as something else."""
    # Three dots alone end a YAML document.
    if text != "..." and _PLAIN_SCALAR.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return yaml.safe_dump(text, default_style='"', width=10**9).strip()
