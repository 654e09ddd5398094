"""Identity of a measured model, independent of how it was made and where it is stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from compress.core.artifacts import TASK, TOKENIZER, Artifact


def model_digest(artifact: Artifact, weights: Sequence[str] | None = None) -> str:
    """Return the sha256 of everything that determines a model's outputs: its files, its tokenizer, how texts are
    prepared and truncated, and which output is read.

    A model of a run and the same file measured standalone have the same digest: other files beside them, and the
    formatting of `task.json`, do not matter.

    Args:
        artifact: the model, in the form that was measured.
        weights: names of the model's files; None selects those with the standard names of artifacts.
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
