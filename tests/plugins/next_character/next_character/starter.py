"""What `compress init` writes of the task."""

from __future__ import annotations

from collections.abc import Iterator

from compress.starter.detection import Detected
from compress.starter.lines import FORMAT_KEYS, key_line
from compress.starter.outline import Outline

DATA = """\
data:
  # A csv, jsonl or parquet file with a column of documents, or a folder of text files.
"""
TEACHER = """\

teacher:
  # python:module:function, which returns a module: letters and mask in, logits of each character out.
"""
PASSES = """\
  - distill:                    # train a smaller model from the teacher
      student: {model: "python:next_character.network:small"}
      losses: [{logits: {temperature: 2, weight: 0.5}}, {next_character: {weight: 0.5}}]
      epochs: 2
"""


def data_keys(found: Detected) -> Iterator[str]:
    """The column, and the task's own key."""
    yield key_line("text_column", found.columns.text, "text", "the column that holds the document")
    yield FORMAT_KEYS
    yield "  max_length: 64                # longer documents are cut to so many characters\n"


def teacher_keys(found: Detected) -> Iterator[str]:
    """Whether the teacher is trained first."""
    yield "  finetune: {epochs: 3, learning_rate: 1.0e-2}\n"


STARTER = Outline(DATA, data_keys, TEACHER, teacher_keys, lambda found: iter((PASSES,)), "0.9")
