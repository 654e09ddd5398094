"""Profile template of `compress init` for text classification."""

from __future__ import annotations

from collections.abc import Iterator

from compress.starter.choices import StudentShape
from compress.starter.detection import Detected
from compress.starter.lines import head_keys, label_keys, length_keys, pass_lines, text_keys
from compress.starter.outline import Outline

DATA = """\
data:
  # A csv, jsonl or parquet file; a folder with files train, validation and test of those kinds; a folder with one
  # sub-folder of text files a class; package://name/folder; or a data set of the hub.
"""
TEACHER = """\

teacher:
  # A folder with config.json, safetensors and a tokenizer; a model of the hub; package://name/folder; or
  # python:module:function, which returns (model, tokenizer) and needs --allow-code.
"""
DISTILL_KEYS = """\
      losses: [{logits: {temperature: 2, weight: 0.9}}, {labels: {weight: 0.1}}]
      augment: {copies: 2}      # further texts that the teacher labels: slower, better
      epochs: 6
      # control: true           # train the same student without the teacher too: what does the teacher bring?
"""
PRUNE_PASS = """\
  - prune:                      # remove what matters least, then recover; the numbers are fractions removed
      remove: {feed_forward: 0.25, heads: 0.0}
      recover: {epochs: 2}
"""
EXAMPLE_LABELS = "negative, positive"


def data_keys(detected: Detected) -> Iterator[str]:
    """Yield the columns, how files are read, and the text length."""
    yield from text_keys(detected)
    yield from label_keys(detected, EXAMPLE_LABELS)
    yield from length_keys(detected)


STARTER = Outline(
    data=DATA,
    data_keys=data_keys,
    teacher=TEACHER,
    teacher_keys=lambda found: head_keys(found, "{epochs: 3, learning_rate: 1.0e-4}", EXAMPLE_LABELS),
    passes=lambda found: pass_lines(found, StudentShape(2, 128), DISTILL_KEYS, PRUNE_PASS),
    retention="0.97",
)
