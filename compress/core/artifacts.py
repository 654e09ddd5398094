"""A directory on disk with hashes and bytes: the only thing that is ever measured or handed on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.disk import reading
from compress.core.disk.files import copy_file, entry_of, first_damaged, read_sealed, write_sealed
from compress.core.disk.safe_paths import inside
from compress.core.errors import ModelError
from compress.core.forms import Form
from compress.core.units import megabytes

SEAL = "artifact.json"
"""The file that makes a directory an artifact; it is written last."""

TORCH_WEIGHTS = "model.safetensors"
MODEL_CONFIG = "config.json"
STRUCTURE = "structure.json"
POOLING = "pooling.json"
"""How a sentence encoder makes one vector of its tokens'."""
MODULE = "module.json"
"""Which function builds a model that is no transformers model."""
BITSANDBYTES = "bitsandbytes.json"
"""Which linear layers are stored in 8 or 4 bits, and how."""
ENSEMBLE = "ensemble.json"
"""The folders of the models that are averaged."""
TOKENIZER = "tokenizer.json"
TASK = "task.json"
LEARNT_FROM = "learnt_from"
"""In `task.json`: the models whose texts a model learnt, each with the licence that allows it."""
ONNX_MODEL = "model.onnx"
ORT_MODEL = "model.ort"
GGUF_MODEL = "model.gguf"
GENAI_MODEL = "genai.onnx"
"""A second graph on the weights of the first."""
GENAI_CONFIG = "genai_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

SAMPLES = "samples.json"
"""Some of the texts that were written for a model to learn: they go no further than its own step."""

_MODEL_SUFFIXES = (".onnx", ".onnx.data", ".safetensors")


@dataclass(frozen=True)
class Artifact:
    """A sealed directory.

    `form` says what the model is, `files` maps each relative path to its sha256 and bytes, `facts` holds what
    the step that made it found out (always `parameters`; `macs` once it is lowered).
    """

    path: Path
    form: Form
    files: Mapping[str, tuple[str, int]]
    facts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """sha256 over the names and hashes of all files: equal digests, equal artifacts."""
        return self._digest_of(set(self.files))

    @property
    def runtime_digest(self) -> str:
        """sha256 over the files that are loaded to run the model: equal ones measure alike, whatever lies beside."""
        loaded = set(self.model_files)
        beside = {TOKENIZER, TASK, MODEL_CONFIG, STRUCTURE, POOLING, MODULE, ENSEMBLE, BITSANDBYTES}
        return self._digest_of(loaded | {name for name in self.files if Path(name).name in beside})

    def _digest_of(self, names: set[str]) -> str:
        lines = "".join(f"{name}\0{self.files[name][0]}\n" for name in sorted(names))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def model_file(self) -> Path:
        """The file that the runtime of this form loads."""
        return self.path / (ONNX_MODEL if self.form.framework.value == "onnx" else TORCH_WEIGHTS)

    @property
    def model_files(self) -> tuple[str, ...]:
        """Names of the model's file or files with external data."""
        return tuple(name for name in self.files if name.endswith(_MODEL_SUFFIXES) and name != GENAI_MODEL)

    @property
    def size_mb(self) -> float:
        """The bytes of `model_files`, in MB of 10^6 bytes."""
        return megabytes(sum(self.files[name][1] for name in self.model_files))

    @property
    def total_mb(self) -> float:
        """Everything in the directory, in MB of 10^6 bytes."""
        return megabytes(sum(size for _, size in self.files.values()))

    def read_json(self, name: str) -> Any:
        """The parsed JSON file `name` of the artifact."""
        return reading.read_json(self.path / name, finite=False)


def copy_interface(source: Path, out: Path) -> None:
    """Copy what says how a model reads its inputs: its `task.json`, and its `tokenizer.json` where it has one."""
    for name in (TOKENIZER, TASK):
        if (source / name).is_file():
            copy_file(source / name, out / name)


def seal(path: Path, form: Form, facts: Mapping[str, Any]) -> Artifact:
    """Hash every file of `path` and write its seal; from then on the directory is an artifact."""
    entries = {
        str(file.relative_to(path)): entry_of(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != SEAL
    }
    write_sealed(path / SEAL, {"form": form.as_dict(), "files": entries, "facts": dict(facts)})
    return Artifact(path, form, _pairs(entries), dict(facts))


def open_artifact(path: Path, *, hashed: bool = False) -> Artifact:
    """Read a sealed directory; `hashed`: also read every file and compare its hash.

    Raises:
        ModelError: the seal is missing or damaged, or a file is missing, has another size or another hash.
    """
    try:
        body = read_sealed(path / SEAL)
        artifact = Artifact(path, Form.from_dict(body["form"]), _pairs(body["files"]), body["facts"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"not a finished artifact: {error}", where=str(path), code="artifact-damaged"
        ) from error
    for name in artifact.files:
        inside(path, name, where=str(path / SEAL))
    damaged = first_damaged(path, body["files"], hashed=hashed)
    if damaged is not None:
        raise ModelError(
            "a file of this artifact is missing or was changed", where=str(damaged), code="artifact-damaged"
        )
    return artifact


def _pairs(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, int]]:
    return {name: (entry["sha256"], entry["bytes"]) for name, entry in entries.items()}
