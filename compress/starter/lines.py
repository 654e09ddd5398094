"""Lines of a starter profile that several tasks write alike."""

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
"""How files of text are written."""


def text_keys(found: Detected) -> Iterator[str]:
    """The columns of texts: a pair with a score where the table has one, else the text."""
    columns = found.columns
    if columns.pair is not None:
        pair = ", ".join(map(scalar, columns.pair))
        yield f"  pair_columns: [{pair}]   # two texts, whose similarity the score gives\n"
        yield key("score_column", columns.score, "score", "the column with the similarity")
    else:
        yield key("text_column", columns.text, "text", "the column that holds the text")


def label_keys(found: Detected, shown: str) -> Iterator[str]:
    """The column of labels and their names; `shown` are names for an example."""
    yield key("label_column", found.columns.label, "label", "the column that holds the label")
    names = choose_labelling(found.model, found.splits.labels if found.splits else ()).names
    if names is None:
        yield f"  # labels: [{shown}]   # names, where the data holds numbers: 0 is the first\n"
    else:
        yield f"  labels: [{', '.join(map(scalar, names))}]   # the names that the model has for 0, 1, ...\n"


def length_keys(found: Detected) -> Iterator[str]:
    """How texts are split, read and cut."""
    yield SPLITS + WRITTEN
    length, why = choose_length(found.splits.train.texts if found.splits else (), found.model)
    yield f"  max_length: {length:<18}# {why}\n"


def head_keys(found: Detected, training: str, shown: str) -> Iterator[str]:
    """Whether the teacher is trained on the labels first, as `training` says, and what its outputs are called."""
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
    """The passes before quantizing: none where the family cannot be taken apart.

    Args:
        usual: the shape of a student of this task.
        lesson: how it is taught.
        further: passes after that.
        vocabulary: whether there is one.
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
    """A line with a key, commented out where its usual value stands."""
    written = f"{key}: {scalar(value or usual)}"
    mark = "# " if value in (None, usual) else ""
    return f"  {mark}{written:<{29 - len(mark)}} # {comment}\n"


def comment(text: str) -> str:
    """What others wrote, on one line of a comment."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def scalar(text: str) -> str:
    """The text as a YAML scalar on one line, quoted where it could mean something else."""
    # Three dots alone end a document.
    if text != "..." and _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return yaml.safe_dump(text, default_style='"', width=10**9).strip()
