"""A commented profile for the user's own model and data, as `compress init` writes it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from compress.core.errors import UsageError
from compress.core.package_paths import CODE, PACKAGE, SKLEARN
from compress.data.names import shown
from compress.data.texts import is_unicode
from compress.starter.choices import (
    IMBALANCE,
    Student,
    choose_labelling,
    choose_length,
    choose_student,
    is_imbalanced,
)
from compress.starter.detection import Detected, detect

_PLAIN = re.compile(r"[A-Za-z0-9_./~][\w./~:+-]*")

_HEAD = """\
# How to make a small, fast model of {model_comment}.
#
#   compress validate FILE    finds every mistake, without running anything
#   compress plan FILE        shows the steps and what is cached
#   compress run FILE         does it all and writes reports/{name}/report.html
#
# A path is looked up from the folder of this file. Every key: docs/profile.md, or `compress schema`.
{found}
name: {name}
task: {task}
seed: 0

"""

_DATA = {
    "text-classification": """\
data:
  # A csv, jsonl or parquet file; a folder with files train, validation and test of those kinds; a folder with one
  # sub-folder of text files a class; package://name/folder; or a data set of the hub.
""",
    "sentence-embedding": """\
data:
  # A csv, jsonl or parquet file; a folder with files train, validation and test of those kinds; a folder of text
  # files; package://name/folder; or a data set of the hub. Labels are not needed.
""",
    "image-classification": """\
data:
  # A folder with one sub-folder of images a class, or with such folders train, validation and test; a parquet file;
  # package://name/folder; a data set of the hub; or sklearn://digits.
""",
}

_TEACHER = {
    "text-classification": """\

teacher:
  # A folder with config.json, safetensors and a tokenizer; a model of the hub; package://name/folder; or
  # python:module:function, which returns (model, tokenizer) and needs --allow-code.
""",
    "sentence-embedding": """\

teacher:
  # A folder with config.json, safetensors and a tokenizer; a model of the hub; or package://name/folder.
""",
    "image-classification": """\

teacher:
  # A folder with config.json and safetensors; a model of the hub; package://name/folder; or python:module:function,
  # which returns any torch module from pixels to logits, and needs --allow-code.
""",
}

_PASSES = """\

passes:                         # done in this order; each is measured against the teacher
"""

_LESSONS = {
    "text-classification": """\
      losses: [{logits: {temperature: 2, weight: 0.9}}, {labels: {weight: 0.1}}]
      augment: {copies: 2}      # further texts that the teacher labels: slower, better
      epochs: 6
      # control: true           # train the same student without the teacher too: what does the teacher bring?
""",
    "sentence-embedding": """\
      # The student's embeddings against the teacher's, and the cosines between the texts of a batch.
      losses: [{output: cosine}, {similarity: {of: matrix, representation: outputs}}]
      augment: {copies: 2}      # further texts that the teacher embeds: slower, better
      epochs: 10
""",
    "image-classification": """\
      losses: [{logits: {temperature: 2, weight: 0.9}}, {labels: {weight: 0.1}}]
      augment: {crop: 0.125, flip: 0.5}   # mirrored images must still show the same: set flip to 0 for text
      epochs: 10
      # control: true           # train the same student without the teacher too: what does the teacher bring?
""",
}

_IMAGE_KEYS = """\
  # image_size: [224, 224]      # height and width that images are scaled to, if the teacher's config does not say
  # How a module that is a classifier already takes its pixels; models of transformers say it themselves.
  # preprocess: {size: 256, resize: shortest, crop: 224, interpolation: bicubic, mean: 0.5, std: 0.5}
  # image_column: image         # the column that holds the image, in tables and data sets of the hub
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

_PRUNE = """\
  - prune:                      # remove what matters least, then recover; the numbers are fractions removed
      remove: {feed_forward: 0.25, heads: 0.0}
      recover: {epochs: 2}
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


def starter_profile(model: str, data: str, folder: Path | None = None, task: str | None = None) -> str:
    """The text of a valid profile for a model and data, with the keys that users change first explained.

    What was found in the files of both stands in its comments; what is not on this machine gets the usual settings.

    Args:
        model: a path from here, a hub id, `package://name/folder` or `python:module:function`.
        data: a path from here, a hub id, `package://name/folder` or `sklearn://digits`.
        folder: where the profile will stand, if not here: paths are written as seen from it.
        task: what the model is for; unset: what model and data look like.

    Raises:
        UsageError: a path cannot be written.
        DataError: a table without names of columns.
    """
    written = [_seen_from(source, folder) for source in (model, data)]
    for source in (model, data, *written):
        if not is_unicode(source):
            raise UsageError(
                "a path that is not UTF-8 cannot stand in a profile",
                where=shown(source),
                hint="Rename it, or call init inside that folder.",
                code="path-encoding",
            )
    found = detect(model, data, task)
    model, data = written
    head = _HEAD.format(
        name=_scalar(f"{_short(data)}_{_short(model)}"),
        task=found.task,
        model_comment=json.dumps(model),
        found="".join(f"# Found: {line}.\n" for line in _found(found)),
    )
    retention = "0.95" if found.task == "sentence-embedding" else "0.97"
    return "".join(
        (
            head,
            _DATA[found.task],
            f"  path: {_scalar(data)}\n",
            *_data_keys(found),
            _TEACHER[found.task],
            f"  model: {_scalar(model)}\n",
            *_teacher_keys(found),
            _PASSES,
            *_passes(found),
            _TAIL.replace("RETENTION", retention),
        )
    )


def _found(found: Detected) -> Iterator[str]:
    """What was seen, a sentence each."""
    model = found.model
    if model.kind is not None:
        size = f", {model.sizes.layers} layers of width {model.sizes.hidden}" if model.sizes else ""
        cuts = f", a {model.cuts} tokenizer" if model.cuts else ""
        yield f"the model is a {_comment(model.kind)}{size}{cuts}"
    if found.splits is not None:
        parts = (found.splits.train, found.splits.validation, found.splits.test)
        rows = sum(map(len, parts))
        labels = [f"{_comment(name)} {count}" for name, count in list(found.counts.items())[:8]]
        more = f" and {len(found.counts) - 8} more" if len(found.counts) > 8 else ""
        yield f"the data has {rows} rows" + (f"; {', '.join(labels)}{more}" if labels else "")
        yield from map(_comment, found.splits.notes)
    if is_imbalanced(found.counts):
        yield f"one class is {IMBALANCE} times as large as another: look at the score of each in the report"


def _data_keys(found: Detected) -> Iterator[str]:
    columns = found.columns
    if found.task == "image-classification":
        yield _IMAGE_KEYS
    elif columns.pair is not None:
        pair = ", ".join(map(_scalar, columns.pair))
        yield f"  pair_columns: [{pair}]   # two texts, whose similarity the score gives\n"
        yield _key("score_column", columns.score, "score", "the column with the similarity")
    else:
        yield _key("text_column", columns.text, "text", "the column that holds the text")
    if found.task == "sentence-embedding":
        if columns.pair is None:
            yield "  # sentences: true             # cut longer texts into their sentences, each an example\n"
    else:
        yield _key("label_column", columns.label, "label", "the column that holds the label")
        names = choose_labelling(found.model, found.splits.labels if found.splits else ()).names
        if names is None:
            shown = "cat, dog" if found.task == "image-classification" else "negative, positive"
            yield f"  # labels: [{shown}]   # names, where the data holds numbers: 0 is the first\n"
        else:
            yield f"  labels: [{', '.join(map(_scalar, names))}]   # the names that the model has for 0, 1, ...\n"
    yield (
        "  # splits: {validation: 0.1, test: 0.2}   # fractions to make, or names of splits that exist\n"
        '  # separator: ";"              # between the fields of a csv file; unset: as its first rows tell\n'
        "  # encoding: cp1252            # of files of text; unset: as each file tells\n"
        if found.task != "image-classification"
        else "  # splits: {validation: 0.1, test: 0.2}   # fractions to make, or names of splits that exist\n"
    )
    if found.task != "image-classification":
        length, why = choose_length(found.splits.train.texts if found.splits else (), found.model)
        yield f"  max_length: {length:<18}# {why}\n"


def _key(key: str, value: str | None, usual: str, comment: str) -> str:
    """A line with a key, commented out where its usual value stands."""
    written = f"{key}: {_scalar(value or usual)}"
    mark = "# " if value in (None, usual) else ""
    return f"  {mark}{written:<{30 - len(mark)}}# {comment}\n"


def _teacher_keys(found: Detected) -> Iterator[str]:
    if found.task == "sentence-embedding":
        yield "  # pooling: mean               # how token vectors become one, if its folder does not say\n"
        return
    labelling = choose_labelling(found.model, found.splits.labels if found.splits else ())
    images = found.task == "image-classification"
    training = (
        "{epochs: 5, learning_rate: 1.0e-4, augment: true}"
        if images
        else "{epochs: 3, learning_rate: 1.0e-4}"
    )
    if labelling.finetune:
        yield "  # Delete this line if the model is a classifier of the labels of the data already.\n"
        yield f"  finetune: {training}\n"
    else:
        yield f"  # Not fine-tuned: {labelling.why}. To train it on the data first:\n"
        yield f"  # finetune: {training}\n"
    shown = "cat, dog" if images else "negative, positive"
    yield f"  # labels: [{shown}]   # names of its outputs in order, if its config calls them LABEL_0, LABEL_1\n"


def _passes(found: Detected) -> Iterator[str]:
    """The passes before quantizing: none where the family cannot be taken apart."""
    model = found.model
    if found.task == "image-classification" and model.convolutional:
        yield _CONVOLUTIONS
    elif model.whole is not None:
        yield f"  # {_comment(model.whole)}.\n  # So it is quantized whole; a student of another family may be named:\n"
        yield "  # - distill: {student: {model: path/or/hub-id}, losses: [{logits: {}}, {labels: {}}]}\n"
    else:
        yield from _distill(found, choose_student(model, found.task))
        if found.task == "text-classification":
            yield _PRUNE


def _distill(found: Detected, student: Student) -> Iterator[str]:
    wide = f", hidden_size: {student.hidden}" if student.hidden is not None else ""
    yield "  - distill:                    # train a smaller student from the teacher\n"
    yield f"      student: {{layers: {student.layers}{wide}, from: teacher}}\n"
    if found.task != "image-classification":
        trimmed = found.model.cuts in (None, "WordPiece")
        yield (
            "      vocabulary: trim          # keep the tokens that the data uses, and a margin\n"
            if trimmed
            else f"      # The vocabulary of a {found.model.cuts} tokenizer cannot be trimmed: it is kept.\n"
        )
    yield _LESSONS[found.task]


def _comment(text: str) -> str:
    """What others wrote, on one line of a comment."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


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
