"""Verify that a bundle matches its manifest and reproduces its golden outputs."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from compress.bundles.confinement import Sandbox, find_sandbox, run_python
from compress.bundles.golden_file import golden_problems
from compress.bundles.layout import FORMAT, GOLDEN, MANIFEST, RUNNER, TEMPLATES
from compress.bundles.released import is_released
from compress.core.artifacts import ONNX_MODEL, ORT_MODEL
from compress.core.disk.files import sha256_file
from compress.core.disk.reading import parse_json, read_mapping
from compress.core.disk.safe_paths import path_inside
from compress.core.errors import CompressError, ModelError, UsageError

CHILD_SCRIPT = TEMPLATES / "verify_child.py"
TIMEOUT_S = 600
_DATA_SUFFIXES = frozenset(
    {
        ".onnx",
        ".data",
        ".ort",
        ".gguf",
        ".json",
        ".config",
        ".png",
        ".md",
        ".txt",
        ".model",
        ".safetensors",
        ".npz",
    }
)
"""Suffixes of files that are never imported or executed. Everything else in a bundle counts as code."""


@dataclass(frozen=True)
class Verification:
    """Result of a verification: what was checked, one sentence per problem, and `notes` for the reader."""

    files: int
    examples: int
    models: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems


def verify_bundle(path: Path, *, allow_code: bool = False) -> Verification:
    """Check every hash, then run the golden examples in a clean process with the bundle's own code.

    The process cannot import torch, transformers, onnx or this package, and has no network and no write access if the
    system supports that. Nothing from the bundle is run if anything else is wrong with it.

    Args:
        allow_code: run the bundle's code even if it is not a released version.

    Raises:
        ModelError: the manifest is not readable, or names a file outside the bundle.
        UsageError: with the code `code-not-allowed`: the bundle contains code that is not from a release.
    """
    manifest = read_manifest(path)
    files = listed_files(path, manifest)
    problems = hash_problems(path, files)
    if not problems:
        problems = golden_problems(path / GOLDEN, manifest)
    if problems:
        return Verification(len(files), 0, (), tuple(problems))
    foreign = foreign_code(files)
    if foreign and not allow_code:
        raise UsageError(
            f"{' and '.join(foreign[:3])} is not code from any release of compress, so none of it was run",
            where=str(path / foreign[0]),
            hint="If you trust whoever made the bundle and have read the code, run again with `--allow-code`.",
            code="code-not-allowed",
        )
    models = tuple(name for name in (ONNX_MODEL, ORT_MODEL) if name in files)
    example_count = len(read_mapping(path / GOLDEN)["examples"])
    sandbox = find_sandbox()
    for model in models:
        problems += _run_golden(path, model, example_count, sandbox)
    notes = [*([f"the bundle's own code was run: {', '.join(foreign)}"] if foreign else [])]
    notes += [sandbox.note] if sandbox.note is not None else []
    return Verification(len(files), example_count, models, tuple(problems), tuple(notes))


def foreign_code(files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of the code files of a bundle that are not a version of ours; their hashes have been checked."""
    return [
        name
        for name, entry in sorted(files.items())
        if PurePosixPath(name).suffix.lower() not in _DATA_SUFFIXES
        and not is_released(name, str(entry["sha256"]))
    ]


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a bundle.

    Raises:
        ModelError: it cannot be read, or has another format version.
    """
    try:
        manifest = read_mapping(path / MANIFEST)
    except FileNotFoundError as error:
        raise ModelError(
            "not a bundle: it has no manifest",
            where=str(path / MANIFEST),
            hint="Give the folder that `export` wrote, for example runs/<id>/bundle.",
        ) from error
    if not isinstance(manifest.get("files"), dict):
        raise ModelError("the manifest lists no files", where=str(path / MANIFEST))
    if manifest.get("format") != FORMAT:
        raise ModelError(
            f"this bundle has format {manifest.get('format')}; this version of compress reads format {FORMAT}",
            where=str(path / MANIFEST),
            hint="Export it again, or verify it with the version that made it.",
        )
    return manifest


def listed_files(path: Path, manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the file entries of the manifest.

    Raises:
        ModelError: a path leads out of the bundle, or an entry has no hash.
    """
    for name, entry in manifest["files"].items():
        path_inside(path, name, where=str(path / MANIFEST))
        if not isinstance(entry, dict) or not {"sha256", "bytes"} <= set(entry):
            raise ModelError(f"the manifest has no hash of {name!r}", where=str(path / MANIFEST))
    files: dict[str, dict[str, Any]] = manifest["files"]
    return files


def changed_files(path: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    """Return a problem for each file of the manifest that is missing or changed."""
    problems = []
    for name, entry in sorted(files.items()):
        file = path / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != entry["bytes"] or sha256_file(file) != entry["sha256"]:
            problems.append(f"{name} was changed: its sha256 differs from the manifest")
    return problems


def hash_problems(path: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    """Return a problem for each file that is missing, changed, or not in the manifest."""
    problems = changed_files(path, files)
    # A symbolic link to a folder would not be traversed, and may contain anything.
    paths = (file for file in path.rglob("*") if file.is_symlink() or not file.is_dir())
    present = {str(PurePosixPath(file.relative_to(path))) for file in paths}
    for name in sorted(present - set(files) - {MANIFEST, "artifact.json"}):
        compiled = ": compiled by Python or by someone else; remove it" if "__pycache__" in name else ""
        problems.append(f"{name} is not in the manifest{compiled}")
    problems += [
        f"{name} is not in the manifest" for name in (ONNX_MODEL, GOLDEN, RUNNER) if name not in files
    ]
    return problems


def _run_golden(path: Path, model: str, example_count: int, sandbox: Sandbox) -> list[str]:
    """Run the golden examples and return the problems of their outputs."""
    try:
        process = run_python([str(CHILD_SCRIPT), str(path.resolve()), model], sandbox, TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return [f"{model}: the golden examples did not finish within {TIMEOUT_S} s"]
    if process.returncode != 0:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        return [f"{model}: the bundle's code failed: {last}"]
    try:
        result = parse_json((process.stdout.strip().splitlines() or [""])[-1], model)
        compared, imported, problems = (result[key] for key in ("examples", "modules", "problems"))
    except (CompressError, TypeError, KeyError):
        return [f"{model}: the output of the bundle's code cannot be read"]
    if compared != example_count or not isinstance(imported, list) or not isinstance(problems, list):
        return [f"{model}: {compared!r} of {example_count} golden examples were answered"]
    return [*(f"{model}: the bundle's code imports {name}" for name in imported), *map(str, problems)]
