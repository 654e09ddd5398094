"""A commented profile for the user's own model and data, as `compress init` writes it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from compress.package_paths import CODE, PACKAGE, SKLEARN
from compress.profile.detection import Detected, detect
from compress.profile.schema import TaskName

_PLAIN = re.compile(r"[A-Za-z0-9_./~][\w./~:+-]*")

_HEAD = """\
# How to make a small, fast model of {model_comment}.
#
#   compress validate FILE    finds every mistake, without running anything
#   compress plan FILE        shows the steps and what is cached
#   compress run FILE         does it all and writes reports/{name}/report.html
#
# A path is looked up from the folder of this file. Every key: docs/profile.md, or `compress schema`.

name: {name}
task: {task}
seed: 0

"""

_TEXTS = """\
data:
  # A csv, jsonl or parquet file; a folder with files train, validation and test of those kinds; a folder with one
  # sub-folder of text files a class; package://name/folder; or a data set of the hub.
  path: {data}
  # text_column: text           # the column that holds the text
  # label_column: label         # the column that holds the label
  # labels: [negative, positive]   # names, where the data holds numbers: 0 is the first
  # splits: {{validation: 0.1, test: 0.2}}   # fractions to make, or names of splits that exist
  max_length: 128               # longer texts are cut to so many tokens

teacher:
  # A folder with config.json, safetensors and a tokenizer; a model of the hub; package://name/folder; or
  # python:module:function, which returns (model, tokenizer) and needs --allow-code.
  model: {model}
  # Delete this line if the model is a classifier of the labels of the data already.
  finetune: {{epochs: 3, learning_rate: 1.0e-4}}
  # labels: [negative, positive]   # names of its outputs in order, if its config calls them LABEL_0, LABEL_1

passes:                         # done in this order; each is measured against the teacher
  - distill:                    # train a smaller student from the teacher
      student: {{layers: 2, hidden_size: 128, from: teacher}}
      vocabulary: trim          # keep the tokens that the data uses, and a margin
      losses: [{{logits: {{temperature: 2, weight: 0.9}}}}, {{labels: {{weight: 0.1}}}}]
      augment: {{copies: 2}}      # further texts that the teacher labels: slower, better
      epochs: 6
      # control: true           # train the same student without the teacher too: what does the teacher bring?
  - prune:                      # remove what matters least, then recover; the numbers are fractions removed
      remove: {{feed_forward: 0.25, heads: 0.0}}
      recover: {{epochs: 2}}
"""

_SENTENCES = """\
data:
  # A csv, jsonl or parquet file; a folder with files train, validation and test of those kinds; a folder of text
  # files; package://name/folder; or a data set of the hub. Labels are not needed.
  path: {data}
{columns}  # splits: {{validation: 0.1, test: 0.2}}   # fractions to make, or names of splits that exist
  max_length: 128               # longer texts are cut to so many tokens

teacher:
  # A folder with config.json, safetensors and a tokenizer; a model of the hub; or package://name/folder.
  model: {model}
  # pooling: mean               # how token vectors become one, if its folder does not say

passes:                         # done in this order; each is measured against the teacher
  - distill:                    # train a smaller student from the teacher
      student: {{layers: 2, hidden_size: 192, from: teacher}}
      vocabulary: trim          # keep the tokens that the data uses, and a margin
      # The student's embeddings against the teacher's, and the cosines between the texts of a batch.
      losses: [{{output: cosine}}, {{similarity: {{of: matrix, representation: outputs}}}}]
      augment: {{copies: 2}}      # further texts that the teacher embeds: slower, better
      epochs: 10
"""

_IMAGES = """\
data:
  # A folder with one sub-folder of images a class, or with such folders train, validation and test; a parquet file;
  # package://name/folder; a data set of the hub; or sklearn://digits.
  path: {data}
  # image_size: [224, 224]      # height and width that images are scaled to, if the teacher's config does not say
  # image_column: image         # the column that holds the image, in tables and data sets of the hub
  # label_column: label         # the column that holds the label
  # labels: [cat, dog]          # names, where the data holds numbers: 0 is the first
  # splits: {{validation: 0.1, test: 0.2}}   # fractions to make, or names of splits that exist

teacher:
  # A folder with config.json and safetensors; a model of the hub; package://name/folder; or python:module:function,
  # which returns any torch module from pixels to logits, and needs --allow-code.
  model: {model}
  # Delete this line if the model is a classifier of the labels of the data already.
  finetune: {{epochs: 5, learning_rate: 1.0e-4, augment: true}}
  # labels: [cat, dog]          # names of its outputs in order, if its config calls them LABEL_0, LABEL_1

passes:                         # done in this order; each is measured against the teacher
"""

_LAYERED = """\
  - distill:                    # train a smaller student from the teacher
      student: {layers: 4, from: teacher}
      losses: [{logits: {temperature: 2, weight: 0.9}}, {labels: {weight: 0.1}}]
      augment: {crop: 0.125, flip: 0.5}   # mirrored images must still show the same: set flip to 0 for text
      epochs: 10
      # control: true           # train the same student without the teacher too: what does the teacher bring?
"""

_CONVOLUTIONS = """\
  # - distill:                  # a vision transformer that learns from this teacher through a distillation token
  #     student: {architecture: deit, layers: 4, hidden_size: 96, heads: 3}
  #     losses: [{logits: {hard: true, weight: 0.5}}, {labels: {weight: 0.5}}]
  #     epochs: 50
  - prune:                      # remove what matters least, then recover; the numbers are fractions removed
      remove: {channels: 0.5}
      recover: {epochs: 10, learning_rate: 1.0e-3}
"""

_TAIL = """\
  - quantize: {bits: 8}         # INT8; 4 stores weights in 4-bit blocks
  - export: {formats: [onnx]}   # the bundle to deploy; add ort for the mobile format

targets:                        # where it will run: every step is measured on each
  - {device: cpu, runtime: onnxruntime, threads: 1, batch_sizes: [1]}

budget:                         # missed: the run says so and exits with 3
  retention: RETENTION               # at least this share of the teacher's score
  # size_mb: 5                  # at most, MB of 10^6 bytes
  # speedup: 10                 # at least, against the FP32 teacher on the same target
"""


def starter_profile(model: str, data: str, folder: Path | None = None, task: TaskName | None = None) -> str:
    """The text of a valid profile for a model and data, with the keys that users change first explained.

    Args:
        model: a path from here, a hub id, `package://name/folder` or `python:module:function`.
        data: a path from here, a hub id, `package://name/folder` or `sklearn://digits`.
        folder: where the profile will stand, if not here: paths are written as seen from it.
        task: what the model is for; unset: what model and data look like.
    """
    found = detect(model, data, task)
    model, data = (_seen_from(source, folder) for source in (model, data))
    head = (_HEAD + _SECTIONS[found.task]).format(
        name=_scalar(f"{_short(data)}_{_short(model)}"),
        task=found.task,
        data=_scalar(data),
        model=_scalar(model),
        model_comment=json.dumps(model),
        columns=_columns(found),
    )
    images = _LAYERED if found.layered else _CONVOLUTIONS
    retention = "0.95" if found.task == "sentence-embedding" else "0.97"
    return (
        head
        + (images if found.task == "image-classification" else "")
        + _TAIL.replace("RETENTION", retention)
    )


_SECTIONS: Mapping[TaskName, str] = {
    "text-classification": _TEXTS,
    "image-classification": _IMAGES,
    "sentence-embedding": _SENTENCES,
}


def _columns(found: Detected) -> str:
    """The lines of a sentence profile that name its columns."""
    if found.pairs:
        pair = ", ".join(_scalar(name) for name in found.pairs)
        return f"  pair_columns: [{pair}]   # two texts, whose similarity stands in the column `score`\n"
    cut = "  # sentences: true             # cut longer texts into their sentences, each an example\n"
    if found.text_column:
        return f"  text_column: {_scalar(found.text_column)}\n{cut}"
    return f"  # text_column: text           # the column that holds the text\n{cut}"


def _seen_from(source: str, folder: Path | None) -> str:
    """A path as it must be written in a profile of that folder; what is no path on this machine stays as it is."""
    if source.startswith((PACKAGE, CODE, SKLEARN)) or not os.path.exists(source):
        return source
    path = Path(source)
    if path.is_absolute():
        return str(path)
    seen = Path(os.path.relpath(path, folder or Path())).as_posix()
    return seen if seen.startswith("..") else f"./{seen}"


def _short(source: str) -> str:
    """A name for a source that is fit for a profile's name: its last telling part."""
    parts = [part for part in re.split(r"[/\\:]+", source) if part.strip(".~")]
    telling = [
        part for part in parts if part not in ("data", "model", "package", "python", "sklearn")
    ] or parts
    name = re.sub(r"\.(csv|jsonl|json|parquet)$", "", telling[-1]) if telling else "model"
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower() or "model"


def _scalar(text: str) -> str:
    """The text as a YAML scalar on one line, quoted where it could mean something else."""
    # Three dots alone end a document.
    if text != "..." and _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return yaml.safe_dump(text, default_style='"', width=10**9).strip()
