"""Which model was measured, whatever made it and wherever it lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from compress.core.artifacts import TASK, TOKENIZER, Artifact


def model_digest(artifact: Artifact, weights: Sequence[str] | None = None) -> str:
    """sha256 of what decides a model's outputs: its files, its tokenizer, how texts are prepared and where they are
    cut, and which output is read.

    A model that a run made and the same file measured alone have the same one: what else lies beside them, and how
    their `task.json` is written, does not count.

    Args:
        artifact: the model, in the form that was measured.
        weights: names of its files; None: those that are called as models of ours are.
    """
    names = set(artifact.model_files if weights is None else weights)
    names |= {TOKENIZER} & artifact.files.keys()
    task = artifact.read_json(TASK) if TASK in artifact.files else {}
    body = [
        [[name, artifact.files[name][0]] for name in sorted(names)],
        task.get("max_length"),
        task.get("output_names"),
        *([task["texts"]] if "texts" in task else []),
    ]
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()
