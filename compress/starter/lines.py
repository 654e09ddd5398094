"""Lines of a starter profile that several tasks share."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from compress.starter.choices import Student, choose_labelling, choose_length, choose_student
from compress.starter.detection import Detected

_PLAIN = re.compile(r"[A-Za-z0-9_./~][\w./~:+-]*")
SPLITS = "  # splits: {validation: 0.1, test: 0.2}   # fractions to make, or names of splits that exist\n"
WRITTEN = (
    '  # separator: ";"              # between the fields of a csv file; unset: as its first rows tell\n'
    "  # encoding: cp1252            # of text files; unset: detected in each file\n"
)
"""Commented-out keys for the format of text files."""


def text_keys(found: Detected) -> Iterator[str]:
    """Yield the text columns: a pair with its score if the table has one, else one text column."""
    columns = found.columns
    if columns.pair is not None:
        pair = ", ".join(map(scalar, columns.pair))
        yield f"  pair_columns: [{pair}]   # two texts, whose similarity the score gives\n"
        yield key("score_column", columns.score, "score", "the column with the similarity")
    else:
        yield key("text_column", columns.text, "text", "the column that holds the text")


def label_keys(found: Detected, shown: str) -> Iterator[str]:
    """Yield the label column and the label names; `shown` are example names."""
    yield key("label_column", found.columns.label, "label", "the column that holds the label")
    names = choose_labelling(found.model, found.splits.labels if found.splits else ()).names
    if names is None:
        yield f"  # labels: [{shown}]   # names, where the data holds numbers: 0 is the first\n"
    else:
        yield f"  labels: [{', '.join(map(scalar, names))}]   # the names that the model has for 0, 1, ...\n"


def length_keys(found: Detected) -> Iterator[str]:
    """Yield how texts are split, read and truncated."""
    yield SPLITS + WRITTEN
    length, why = choose_length(found.splits.train.texts if found.splits else (), found.model)
    yield f"  max_length: {length:<18}# {why}\n"


def head_keys(found: Detected, training: str, shown: str) -> Iterator[str]:
    """Yield whether the teacher is fine-tuned on the labels first (`training`), and the names of its outputs."""
    labelling = choose_labelling(found.model, found.splits.labels if found.splits else ())
    if labelling.finetune:
        yield "  # Delete this line if the model already classifies the data's labels.\n"
        yield f"  finetune: {training}\n"
    else:
        yield f"  # Not fine-tuned: {labelling.why}. To train it on the data first:\n"
        yield f"  # finetune: {training}\n"
    yield f"  # labels: [{shown}]   # names of its outputs in order, if its config calls them LABEL_0, LABEL_1\n"


def passes(
    found: Detected, usual: Student, lesson: str, further: str = "", *, vocabulary: bool = True
) -> Iterator[str]:
    """Yield the passes before quantization; none if the model family cannot be taken apart.

    Args:
        usual: shape of a student of this task.
        lesson: lines of the distillation's training settings.
        further: lines of passes after distillation.
        vocabulary: whether the model has a vocabulary.
    """
    model = found.model
    if model.whole is not None:
        yield f"  # {comment(model.whole)}.\n  # So it is quantized whole; a student of another family may be named:\n"
        yield "  # - distill: {student: {model: path/or/hub-id}, losses: [{logits: {}}, {labels: {}}]}\n"
        return
    student = choose_student(model, usual)
    wide = f", hidden_size: {student.hidden}" if student.hidden is not None else ""
    yield "  - distill:                    # train a smaller student from the teacher\n"
    yield f"      student: {{layers: {student.layers}{wide}, from: teacher}}\n"
    if vocabulary:
        trimmed = model.cuts in (None, "WordPiece")
        yield (
            "      vocabulary: trim          # keep the tokens that the data uses, and a margin\n"
            if trimmed
            else f"      # The vocabulary of a {model.cuts} tokenizer cannot be trimmed: it is kept.\n"
        )
    yield lesson
    yield further


def key(key: str, value: str | None, usual: str, comment: str) -> str:
    """Return a line with a key, commented out if it has the default value."""
    written = f"{key}: {scalar(value or usual)}"
    mark = "# " if value in (None, usual) else ""
    return f"  {mark}{written:<{29 - len(mark)}} # {comment}\n"


def comment(text: str) -> str:
    """Return foreign text as a single line that is safe in a comment."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def scalar(text: str) -> str:
    """Return the text as a YAML scalar on one line, quoted where it could be read as something else."""
    # Three dots alone end a YAML document.
    if text != "..." and _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return yaml.safe_dump(text, default_style='"', width=10**9).strip()
