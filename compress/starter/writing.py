"""Generate the commented profile that `compress init` writes for the user's model and data."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from compress.core.disk.source_uris import CODE, PACKAGE, SKLEARN
from compress.core.errors import DataError, UsageError
from compress.data.checks import IMBALANCED, is_imbalanced
from compress.data.names import shown
from compress.data.texts import is_unicode
from compress.starter.detection import Detected, detect
from compress.starter.lines import comment, scalar
from compress.starter.outline import outline_of
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
    written = [_seen_from(source, folder) for source in (model, data)]
    for source in (model, data, *written):
        if not is_unicode(source):
            raise UsageError(
                "a profile cannot contain a path that is not UTF-8",
                where=shown(source),
                hint="Rename it, or call init inside that folder.",
                code="path-encoding",
            )
    found = detect(model, data, task)
    if found.lacks_labels:
        raise DataError(
            "no column looks like labels: texts or whole numbers that repeat",
            where=shown(data),
            hint=f"Call the column of labels `label`; the columns are: {', '.join(map(repr, found.names))}. "
            "Regression and several labels per text are not supported.",
            code="column-missing",
        )
    model, data = written
    head = _HEAD.format(
        name=scalar(f"{_short(data)}_{_short(model)}"),
        task=found.task,
        model_comment=json.dumps(model),
        found="".join(f"# Found: {line}.\n" for line in _found(found)),
    )
    outline = outline_of(found.task)
    return "".join(
        (
            head,
            outline.data,
            f"  path: {scalar(data)}\n",
            *outline.data_keys(found),
            outline.teacher,
            f"  model: {scalar(model)}\n",
            *outline.teacher_keys(found),
            _PASSES,
            *outline.passes(found),
            _TAIL.replace("RETENTION", outline.retention).replace("LENGTHS", _timed_lengths(found)),
        )
    )


def _timed_lengths(found: Detected) -> str:
    """Return the target's sequence lengths, if the model takes fewer tokens than timing at the default ones needs."""
    kind, longest = task_kind(found.task), found.model.longest
    if longest is None or kind.positions(()) <= longest or kind.longest_timed(longest) < 1:
        return ""
    return f", sequence_lengths: [{kind.longest_timed(longest)}]"


def _found(found: Detected) -> Iterator[str]:
    """Yield what was detected, one sentence each."""
    model = found.model
    if model.folder is None and not model.source.startswith((PACKAGE, CODE)):
        yield f"no file or folder {comment(model.source)} here; it is taken for a model of the hub"
    if model.kind is not None:
        size = f", {model.sizes.layers} layers of width {model.sizes.hidden}" if model.sizes else ""
        cuts = f", a {model.cuts} tokenizer" if model.cuts else ""
        yield f"the model is a {comment(model.kind)}{size}{cuts}"
    if found.splits is not None:
        parts = (found.splits.train, found.splits.validation, found.splits.test)
        rows = sum(map(len, parts))
        labels = [f"{comment(name)} {count}" for name, count in list(found.counts.items())[:8]]
        more = f" and {len(found.counts) - 8} more" if len(found.counts) > 8 else ""
        yield f"the data has {rows} rows" + (f"; {', '.join(labels)}{more}" if labels else "")
        yield from map(comment, found.splits.notes)
    if unread := found.unread:
        yield f"not read of its columns: {', '.join(map(comment, unread))}; what belongs to a prompt must stand in it"
    if is_imbalanced(found.counts.values()):
        yield f"one class is {IMBALANCED} times as large as another: look at the score of each in the report"


def _seen_from(source: str, folder: Path | None) -> str:
    """Return a path relative to the profile's folder; sources that are not paths on this machine are unchanged."""
    if source.startswith((PACKAGE, CODE, SKLEARN)) or not os.path.exists(source):
        return source
    path = Path(source)
    if path.is_absolute():
        return str(path)
    # `..` is resolved from the target of a symbolic link, not from the link itself.
    seen = Path(os.path.relpath(path.absolute(), os.path.realpath(folder or Path()))).as_posix()
    return seen if seen.startswith("..") else f"./{seen}"


def _short(source: str) -> str:
    """Derive a short name for a source, valid in a profile's name, from its last meaningful part."""
    parts = [part for part in re.split(r"[/\\:]+", source) if part.strip(".~")]
    telling = [
        part for part in parts if part not in ("data", "model", "package", "python", "sklearn")
    ] or parts
    name = re.sub(r"\.(csv|jsonl|json|parquet)$", "", telling[-1]) if telling else "model"
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower() or "model"
