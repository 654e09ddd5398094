"""Profile template of `compress init` for sentence embedding."""

from __future__ import annotations

from collections.abc import Iterator

from compress.starter.choices import StudentShape
from compress.starter.detection import Detected
from compress.starter.lines import length_keys, pass_lines, text_keys
from compress.starter.outline import Outline

DATA = """\
data:
  # A csv, jsonl or parquet file; a folder with files train, validation and test of those kinds; a folder of text
  # files; package://name/folder; or a data set of the hub. Labels are not needed.
"""
TEACHER = """\

teacher:
  # A folder with config.json, safetensors and a tokenizer; a model of the hub; or package://name/folder.
"""
DISTILL_KEYS = """\
      # The student's embeddings against the teacher's, and the cosines between the texts of a batch.
      losses: [{output: cosine}, {similarity: {of: matrix, representation: outputs}}]
      augment: {copies: 2}      # further texts that the teacher embeds: slower, better
      epochs: 10
"""


def data_keys(detected: Detected) -> Iterator[str]:
    """Yield the columns, whether texts are split into sentences, how files are read, and the text length."""
    yield from text_keys(detected)
    if detected.columns.pair is None:
        yield "  # sentences: true             # cut longer texts into their sentences, each an example\n"
    yield from length_keys(detected)


def teacher_keys(detected: Detected) -> Iterator[str]:
    """Yield how token vectors are pooled."""
    yield "  # pooling: mean               # how token vectors become one, if its folder does not say\n"


STARTER = Outline(
    data=DATA,
    data_keys=data_keys,
    teacher=TEACHER,
    teacher_keys=teacher_keys,
    passes=lambda found: pass_lines(found, StudentShape(2, 192), DISTILL_KEYS),
    retention="0.95",
)
