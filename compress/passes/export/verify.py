"""Does a bundle hold what its manifest says, and does it answer as it did when it was made?"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from compress.artifacts import ONNX_MODEL, ORT_MODEL
from compress.errors import ModelError
from compress.files import sha256_file
from compress.inside import inside
from compress.passes.export.layout import FORMAT, GOLDEN, MANIFEST, RUNNER, TEMPLATES

CHILD = TEMPLATES / "verify_child.py"
TIMEOUT_S = 600


@dataclass(frozen=True)
class Verification:
    """What was checked, and one sentence for each thing that is wrong."""

    files: int
    examples: int
    models: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_bundle(path: Path) -> Verification:
    """Check every hash, then run the golden examples in a clean process with the bundle's own code.

    The process cannot import torch, transformers, onnx or this package. Nothing of the bundle is run while a hash is
    wrong.

    Raises:
        ModelError: there is no readable manifest, or it names a file outside the bundle.
    """
    manifest = read_manifest(path)
    files = listed_files(path, manifest)
    problems = hash_problems(path, files) or _golden_problems(path, files)
    if problems:
        return Verification(len(files), 0, (), tuple(problems))
    models = tuple(name for name in (ONNX_MODEL, ORT_MODEL) if name in files)
    examples = 0
    for model in models:
        count, found = _run_golden(path, model)
        examples = max(examples, count)
        problems += found
    return Verification(len(files), examples, models, tuple(problems))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a bundle.

    Raises:
        ModelError: it cannot be read, or is of another version.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"not a bundle: its manifest cannot be read: {error}",
            where=str(path / MANIFEST),
            hint="Give the folder that `export` wrote, for example runs/<id>/bundle.",
        ) from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ModelError("the manifest lists no files", where=str(path / MANIFEST))
    if manifest.get("format") != FORMAT:
        raise ModelError(
            f"the layout of this bundle is {manifest.get('format')}; this version of compress knows {FORMAT}",
            where=str(path / MANIFEST),
            hint="Export it again, or verify it with the version that made it.",
        )
    return manifest


def listed_files(path: Path, manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The entries of the manifest, none of which leads out of the bundle.

    Raises:
        ModelError: one does.
    """
    for name, entry in manifest["files"].items():
        inside(path, name, where=str(path / MANIFEST))
        if not isinstance(entry, dict) or not {"sha256", "bytes"} <= set(entry):
            raise ModelError(f"it has no hash of {name!r}", where=str(path / MANIFEST))
    files: dict[str, dict[str, Any]] = manifest["files"]
    return files


def changed_files(path: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    """Files of the manifest that are missing or changed."""
    problems = []
    for name, entry in sorted(files.items()):
        file = path / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != entry["bytes"] or sha256_file(file) != entry["sha256"]:
            problems.append(f"{name} was changed: its sha256 is not that of the manifest")
    return problems


def hash_problems(path: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    """Files that are missing, changed, or not in the manifest."""
    problems = changed_files(path, files)
    present = {str(PurePosixPath(file.relative_to(path))) for file in path.rglob("*") if not file.is_dir()}
    ours = {MANIFEST, "artifact.json"}
    unknown = sorted(name for name in present - set(files) - ours if "__pycache__" not in name)
    problems += [f"{name} is not in the manifest" for name in unknown]
    problems += [
        f"{name} is not in the manifest" for name in (ONNX_MODEL, GOLDEN, RUNNER) if name not in files
    ]
    return problems


def _golden_problems(path: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    """Images of the golden examples that the manifest does not list: they may lie anywhere."""
    try:
        examples = json.loads((path / GOLDEN).read_text(encoding="utf-8"))["examples"]
        named = [str(example["image"]) for example in examples if "image" in example]
    except (ValueError, KeyError, TypeError):
        return [f"{GOLDEN} holds no golden examples"]
    return [f"{GOLDEN} names {name!r}, which is not in the manifest" for name in named if name not in files]


def _run_golden(path: Path, model: str) -> tuple[int, list[str]]:
    """Golden examples run and what is wrong with them."""
    command = [sys.executable, "-I", "-B", str(CHILD), str(path.resolve()), model]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return 0, [f"{model}: the golden examples did not end within {TIMEOUT_S} s"]
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return 0, [f"{model}: the bundle's code failed: {last}"]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    imported = [f"{model}: the bundle's code imports {name}" for name in result["modules"]]
    return int(result["examples"]), [*imported, *result["problems"]]
