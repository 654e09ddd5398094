"""Generate the commented profile that `compress init` writes for the user's model and data."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from compress.core.disk.source_uris import CODE_PREFIX, PACKAGE_PREFIX, SKLEARN_PREFIX
from compress.core.errors import DataError, UsageError
from compress.data.checks import IMBALANCED, is_imbalanced
from compress.data.names import printable
from compress.data.texts import is_unicode
from compress.starter.detection import Detected, detect
from compress.starter.lines import one_line, scalar
from compress.starter.outline import load_outline
from compress.tasks.table import task_kind

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

_PASSES = """\

passes:                         # done in this order; each is measured against the teacher
"""

_TAIL = """\
  - quantize: {bits: 8}         # INT8; 4 stores weights in 4-bit blocks
  - export: {formats: [onnx]}   # the bundle to deploy; add ort for the mobile format

targets:                        # where it will run: every step is measured on each
  - {device: cpu, runtime: onnxruntime, threads: 1, batch_sizes: [1]LENGTHS}

budget:                         # missed: the run says so and exits with 3
  retention: RETENTION               # at least this share of the teacher's score
  # size_mb: 5                  # at most, MB of 10^6 bytes
  # speedup: 10                 # at least, against the FP32 teacher on the same target
"""


def starter_profile(model: str, data: str, folder: Path | None = None, task: str | None = None) -> str:
    """Return the text of a valid profile for a model and data, with explanations of the keys that users change first.

    Comments list what was detected in the files of both; sources that are not on this machine get the default settings.

    Args:
        model: a path relative to the working directory, a hub id, `package://name/folder` or `python:module:function`.
        data: a path relative to the working directory, a hub id, `package://name/folder` or `sklearn://digits`.
        folder: folder that the profile will be in, to which paths are made relative; None: the working directory.
        task: the task; None: detected.

    Raises:
        UsageError: a path cannot be written in a profile.
        DataError: a table without column names, or without labels for a task that requires them.
    """
    relative_sources = [_relative_to_profile(source, folder) for source in (model, data)]
    for source in (model, data, *relative_sources):
        if not is_unicode(source):
            raise UsageError(
                "a profile cannot contain a path that is not UTF-8",
                where=printable(source),
                hint="Rename it, or call init inside that folder.",
                code="path-encoding",
            )
    detected = detect(model, data, task)
    if detected.lacks_labels:
        raise DataError(
            "no column looks like labels: texts or whole numbers that repeat",
            where=printable(data),
            hint=f"Call the column of labels `label`; the columns are: {', '.join(map(repr, detected.column_names))}. "
            "Regression and several labels per text are not supported.",
            code="column-missing",
        )
    model, data = relative_sources
    head = _HEAD.format(
        name=scalar(f"{_short_name(data)}_{_short_name(model)}"),
        task=detected.task,
        model_comment=json.dumps(model),
        found="".join(f"# Found: {line}.\n" for line in _findings(detected)),
    )
    outline = load_outline(detected.task)
    return "".join(
        (
            head,
            outline.data,
            f"  path: {scalar(data)}\n",
            *outline.data_keys(detected),
            outline.teacher,
            f"  model: {scalar(model)}\n",
            *outline.teacher_keys(detected),
            _PASSES,
            *outline.passes(detected),
            _TAIL.replace("RETENTION", outline.retention).replace("LENGTHS", _timed_lengths(detected)),
        )
    )


def _timed_lengths(detected: Detected) -> str:
    """Return the target's sequence lengths, if the model takes fewer tokens than timing at the default ones needs."""
    kind, max_tokens = task_kind(detected.task), detected.model.max_tokens
    if max_tokens is None or kind.positions(()) <= max_tokens or kind.longest_timed(max_tokens) < 1:
        return ""
    return f", sequence_lengths: [{kind.longest_timed(max_tokens)}]"


def _findings(detected: Detected) -> Iterator[str]:
    """Yield what was detected, one sentence each."""
    model = detected.model
    if model.folder is None and not model.source.startswith((PACKAGE_PREFIX, CODE_PREFIX)):
        yield f"no file or folder {one_line(model.source)} here; it is taken for a model of the hub"
    if model.model_type is not None:
        size = f", {model.sizes.layers} layers of width {model.sizes.hidden}" if model.sizes else ""
        tokenizer = f", a {model.tokenizer} tokenizer" if model.tokenizer else ""
        yield f"the model is a {one_line(model.model_type)}{size}{tokenizer}"
    if detected.splits is not None:
        splits = (detected.splits.train, detected.splits.validation, detected.splits.test)
        num_rows = sum(map(len, splits))
        labels = [f"{one_line(name)} {count}" for name, count in list(detected.label_counts.items())[:8]]
        more = f" and {len(detected.label_counts) - 8} more" if len(detected.label_counts) > 8 else ""
        yield f"the data has {num_rows} rows" + (f"; {', '.join(labels)}{more}" if labels else "")
        yield from map(one_line, detected.splits.notes)
    if unread := detected.unused_columns:
        yield f"not read of its columns: {', '.join(map(one_line, unread))}; what belongs to a prompt must stand in it"
    if is_imbalanced(detected.label_counts.values()):
        yield f"one class is {IMBALANCED} times as large as another: look at the score of each in the report"


def _relative_to_profile(source: str, folder: Path | None) -> str:
    """Return a path relative to the profile's folder; sources that are not paths on this machine are unchanged."""
    if source.startswith((PACKAGE_PREFIX, CODE_PREFIX, SKLEARN_PREFIX)) or not os.path.exists(source):
        return source
    path = Path(source)
    if path.is_absolute():
        return str(path)
    # `..` is resolved from the target of a symbolic link, not from the link itself.
    relative = Path(os.path.relpath(path.absolute(), os.path.realpath(folder or Path()))).as_posix()
    return relative if relative.startswith("..") else f"./{relative}"


def _short_name(source: str) -> str:
    """Derive a short name for a source, valid in a profile's name, from its last meaningful part."""
    parts = [part for part in re.split(r"[/\\:]+", source) if part.strip(".~")]
    informative = [
        part for part in parts if part not in ("data", "model", "package", "python", "sklearn")
    ] or parts
    name = re.sub(r"\.(csv|jsonl|json|parquet)$", "", informative[-1]) if informative else "model"
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower() or "model"
