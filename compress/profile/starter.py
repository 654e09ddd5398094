"""A commented profile for the user's own model and data, as `compress init` writes it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import yaml

from compress.package_paths import CODE, PACKAGE

_PLAIN = re.compile(r"[A-Za-z0-9_./~][\w./~:+-]*")

_TEMPLATE = """\
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
  - quantize: {{bits: 8}}         # INT8; 4 stores weights in 4-bit blocks
  - export: {{formats: [onnx]}}   # the bundle to deploy; add ort for the mobile format

targets:                        # where it will run: every step is measured on each
  - {{device: cpu, runtime: onnxruntime, threads: 1, batch_sizes: [1]}}

budget:                         # missed: the run says so and exits with 3
  retention: 0.97               # at least this share of the teacher's score
  # size_mb: 5                  # at most, MB of 10^6 bytes
  # speedup: 10                 # at least, against the FP32 teacher on the same target
"""


def starter_profile(
    model: str, data: str, folder: Path | None = None, task: str = "text-classification"
) -> str:
    """The text of a valid profile for a model and data, with the keys that users change first explained.

    Args:
        model: a path from here, a hub id, `package://name/folder` or `python:module:function`.
        data: a path from here, a hub id or `package://name/folder`.
        folder: where the profile will stand, if not here: paths are written as seen from it.
    """
    model, data = (_seen_from(source, folder) for source in (model, data))
    return _TEMPLATE.format(
        name=_scalar(f"{_short(data)}_{_short(model)}"),
        task=task,
        data=_scalar(data),
        model=_scalar(model),
        model_comment=json.dumps(model),
    )


def _seen_from(source: str, folder: Path | None) -> str:
    """A path as it must be written in a profile of that folder; what is no path on this machine stays as it is."""
    if source.startswith((PACKAGE, CODE)) or not os.path.exists(source):
        return source
    path = Path(source)
    if path.is_absolute():
        return str(path)
    seen = Path(os.path.relpath(path, folder or Path())).as_posix()
    return seen if seen.startswith("..") else f"./{seen}"


def _short(source: str) -> str:
    """A name for a source that is fit for a profile's name: its last telling part."""
    parts = [part for part in re.split(r"[/\\:]+", source) if part.strip(".~")]
    telling = [part for part in parts if part not in ("data", "model", "package", "python")] or parts
    name = re.sub(r"\.(csv|jsonl|json|parquet)$", "", telling[-1]) if telling else "model"
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower() or "model"


def _scalar(text: str) -> str:
    """The text as a YAML scalar on one line, quoted where it could mean something else."""
    if _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return yaml.safe_dump(text, default_style='"', width=10**9).strip()
