"""Profile template of `compress init` for image classification."""

from __future__ import annotations

from collections.abc import Iterator

from compress.starter.choices import StudentShape
from compress.starter.detection import Detected
from compress.starter.lines import SPLIT_KEYS, head_keys, label_keys, pass_lines
from compress.starter.outline import Outline

DATA = """\
data:
  # A folder with one sub-folder of images a class, or with such folders train, validation and test; a parquet file;
  # package://name/folder; a data set of the hub; or sklearn://digits.
"""
IMAGE_KEYS = """\
  # image_size: [224, 224]      # height and width that images are scaled to, if the teacher's config does not say
  # How a module that is a classifier already takes its pixels; models of transformers say it themselves.
  # preprocess: {size: 256, resize: shortest, crop: 224, interpolation: bicubic, mean: 0.5, std: 0.5}
  # image_column: image         # the column that holds the image, in tables and data sets of the hub
"""
TEACHER = """\

teacher:
  # A folder with config.json and safetensors; a model of the hub; package://name/folder; or python:module:function,
  # which returns any torch module from pixels to logits, and needs --allow-code.
"""
DISTILL_KEYS = """\
      losses: [{logits: {temperature: 2, weight: 0.9}}, {labels: {weight: 0.1}}]
      augment: {crop: 0.125, flip: 0.5}   # mirrored images must still show the same: set flip to 0 for text
      epochs: 10
      # control: true           # train the same student without the teacher too: what does the teacher bring?
"""
PRUNE_PASS = """\
  # - distill:                  # a vision transformer that learns from this teacher through a distillation token
  #     student: {architecture: deit, layers: 4, hidden_size: 96, heads: 3}
  #     losses: [{logits: {hard: true, weight: 0.5}}, {labels: {weight: 0.5}}]
  #     epochs: 50
  - prune:                      # remove what matters least, then recover; the numbers are fractions removed
      remove: {channels: 0.5}
      recover: {epochs: 10, learning_rate: 1.0e-3}
"""
EXAMPLE_LABELS = "cat, dog"


def data_keys(detected: Detected) -> Iterator[str]:
    """Yield how images are scaled, the columns and the splits."""
    yield IMAGE_KEYS
    yield from label_keys(detected, EXAMPLE_LABELS)
    yield SPLIT_KEYS


def image_passes(detected: Detected) -> Iterator[str]:
    """Yield channel pruning for convolutional models, else distillation into a smaller student."""
    if detected.model.may_be_convolutional:
        yield PRUNE_PASS
    else:
        yield from pass_lines(detected, StudentShape(4, None), DISTILL_KEYS, vocabulary=False)


STARTER = Outline(
    data=DATA,
    data_keys=data_keys,
    teacher=TEACHER,
    teacher_keys=lambda found: head_keys(
        found, "{epochs: 5, learning_rate: 1.0e-4, augment: true}", EXAMPLE_LABELS
    ),
    passes=image_passes,
    retention="0.97",
)
