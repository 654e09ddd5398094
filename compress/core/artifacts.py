"""Sealed model directories with the hash and size of every file: the unit that steps pass on and that is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.disk import reading
from compress.core.disk.files import copy_file, file_entry, first_damaged, read_sealed, write_sealed
from compress.core.disk.safe_paths import path_inside
from compress.core.errors import ModelError
from compress.core.forms import Form
from compress.core.units import megabytes

SEAL = "artifact.json"
"""Manifest that makes a directory an artifact; written last."""

TORCH_WEIGHTS = "model.safetensors"
MODEL_CONFIG = "config.json"
STRUCTURE = "structure.json"
POOLING = "pooling.json"
"""How a sentence encoder pools token vectors into one vector."""
MODULE = "module.json"
"""The function that builds a model that is not a transformers model."""
BITSANDBYTES = "bitsandbytes.json"
"""Which linear layers are stored in 8 or 4 bits, and how."""
ENSEMBLE = "ensemble.json"
"""The folders of the models whose outputs are averaged."""
TOKENIZER = "tokenizer.json"
TASK = "task.json"
LEARNT_FROM = "learnt_from"
"""Key of `task.json`: the models whose generated texts a model was trained on, each with the licence that allows it."""
ONNX_MODEL = "model.onnx"
ORT_MODEL = "model.ort"
GGUF_MODEL = "model.gguf"
GENAI_MODEL = "genai.onnx"
"""A second graph that shares the weights of `model.onnx`."""
GENAI_CONFIG = "genai_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

SAMPLES = "samples.json"
"""Sample of the texts generated for training a model; kept in the artifact of that step only."""

_MODEL_SUFFIXES = (".onnx", ".onnx.data", ".safetensors")


@dataclass(frozen=True)
class Artifact:
    """A sealed directory.

    `form` describes the model, `files` maps each relative path to its sha256 and size in bytes, `facts` holds values
    recorded by the step that made it (always `parameters`; `macs` once it is lowered).
    """

    path: Path
    form: Form
    files: Mapping[str, tuple[str, int]]
    facts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """sha256 over the names and hashes of all files; equal for identical artifacts."""
        return self._digest_of(set(self.files))

    @property
    def runtime_digest(self) -> str:
        """sha256 over the files that are loaded to run the model; other files of the directory do not affect it."""
        names = set(self.model_files)
        interface_files = {TOKENIZER, TASK, MODEL_CONFIG, STRUCTURE, POOLING, MODULE, ENSEMBLE, BITSANDBYTES}
        return self._digest_of(names | {name for name in self.files if Path(name).name in interface_files})

    def _digest_of(self, names: set[str]) -> str:
        lines = "".join(f"{name}\0{self.files[name][0]}\n" for name in sorted(names))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def model_file(self) -> Path:
        """The model file that the runtime for this form loads."""
        return self.path / (ONNX_MODEL if self.form.framework.value == "onnx" else TORCH_WEIGHTS)

    @property
    def model_files(self) -> tuple[str, ...]:
        """Names of the model file and of its external data files."""
        return tuple(name for name in self.files if name.endswith(_MODEL_SUFFIXES) and name != GENAI_MODEL)

    @property
    def size_mb(self) -> float:
        """Total size of `model_files`, in MB of 10^6 bytes."""
        return megabytes(sum(self.files[name][1] for name in self.model_files))

    @property
    def total_mb(self) -> float:
        """Total size of the directory, in MB of 10^6 bytes."""
        return megabytes(sum(size for _, size in self.files.values()))

    def read_json(self, name: str) -> Any:
        """Parse the JSON file `name` of the artifact."""
        return reading.read_json(self.path / name, finite=False)


def copy_interface(source: Path, out: Path) -> None:
    """Copy the files that define a model's inputs: `task.json` and, if present, `tokenizer.json`."""
    for name in (TOKENIZER, TASK):
        if (source / name).is_file():
            copy_file(source / name, out / name)


def seal(path: Path, form: Form, facts: Mapping[str, Any]) -> Artifact:
    """Hash every file in `path` and write the seal, which makes the directory an artifact."""
    entries = {
        str(file.relative_to(path)): file_entry(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != SEAL
    }
    write_sealed(path / SEAL, {"form": form.as_dict(), "files": entries, "facts": dict(facts)})
    return Artifact(path, form, _hashes_and_sizes(entries), dict(facts))


def open_artifact(path: Path, *, verify_hashes: bool = False) -> Artifact:
    """Open a sealed directory; with `verify_hashes`, also read every file and verify its hash.

    Raises:
        ModelError: the seal is missing or damaged, or a file is missing or has a different size or hash.
    """
    try:
        body = read_sealed(path / SEAL)
        artifact = Artifact(
            path, Form.from_dict(body["form"]), _hashes_and_sizes(body["files"]), body["facts"]
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"not a finished artifact: {error}", where=str(path), code="artifact-damaged"
        ) from error
    for name in artifact.files:
        path_inside(path, name, where=str(path / SEAL))
    damaged = first_damaged(path, body["files"], verify_hashes=verify_hashes)
    if damaged is not None:
        raise ModelError(
            "a file of this artifact is missing or was changed", where=str(damaged), code="artifact-damaged"
        )
    return artifact


def _hashes_and_sizes(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, int]]:
    return {name: (entry["sha256"], entry["bytes"]) for name, entry in entries.items()}
