"""Where a teacher comes from, checked and fingerprinted before anything heavy is imported."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.artifacts import MODEL_CONFIG, sha256_file
from compress.errors import ModelError, UsageError
from compress.models.labels import check_head, head_names
from compress.package_paths import CODE, local_path, missing_source
from compress.profile.schema import TeacherSpec

VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
"""The files that can hold a vocabulary; a model has one of them at least."""

MODEL_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    MODEL_CONFIG,
    "structure.json",
    *VOCABULARY_FILES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""The files of a model that are read; nothing else is fetched from the hub or enters a fingerprint."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


def fingerprint(model: str, revision: str | None, base: Path) -> str | None:
    """What tells a model source from any other content; None for a hub model that is not on this machine yet.

    A folder: sha256 over the names and bytes of its model files. A hub id: the commit. `python:`: sha256 of
    the module's file.

    Raises:
        ModelError: there is no such folder, package or module.
    """
    if model.startswith(CODE):
        return f"code:{sha256_file(module_file(model, base))}:{model.rpartition(':')[2]}"
    folder = local_path(model, base)
    if folder is None:
        commit = hub_commit(model, revision)
        return None if commit is None else f"hub:{model}@{commit}"
    files = model_files(_folder(folder))
    return (
        "files:"
        + hashlib.sha256(
            "".join(f"{file.name}\0{sha256_file(file)}\n" for file in files).encode()
        ).hexdigest()
    )


def check_teacher(spec: TeacherSpec, labels: Sequence[str], base: Path, *, allow_code: bool) -> None:
    """Refuse a teacher that cannot do its job, before any work: only its config is read.

    What a hub model that is not on this machine yet and a `python:` function give is checked when it is there.

    Raises:
        UsageError: it is code, and `--allow-code` was not given.
        ModelError: it is missing, is no model, or needs `finetune` because its head does not fit the labels.
    """
    if spec.model.startswith(CODE):
        check_code_allowed(spec.model, allow_code)
        module_file(spec.model, base)
        return
    folder = local_path(spec.model, base)
    config = _cached_config(spec) if folder is None else _read_config(_folder(folder))
    if config is not None and spec.finetune is None:
        check_head(head_names(config, spec.labels), labels, spec.model)


def check_code_allowed(model: str, allow_code: bool) -> None:
    """Refuse a `python:` source that the user did not allow."""
    if not allow_code:
        raise UsageError(
            "this profile runs Python code to make its model",
            where=model,
            hint="If you trust it, start again with `--allow-code`.",
        )


def model_files(folder: Path) -> list[Path]:
    """The files of a folder that make its model, by name."""
    found = {file for pattern in MODEL_FILES for file in folder.glob(pattern) if file.is_file()}
    return sorted(found, key=lambda file: file.name)


def hub_commit(model: str, revision: str | None) -> str | None:
    """The commit that a revision of a hub model stands for, as far as the hub cache of this machine knows."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    config = _cached_file(model, revision)
    return None if config is None else config.parent.name


def module_file(source: str, base: Path) -> Path:
    """The file of the module of `python:module:function`, found without importing it, in `base` first.

    Raises:
        ModelError: it is not of that form, or there is no such module.
    """
    if (fault := missing_source(source, base)) is not None:
        raise ModelError(fault, where=source)
    top, *rest = source.removeprefix(CODE).partition(":")[0].split(".")
    roots = [base / top]
    spec = None if (base / top).is_dir() else importlib.util.find_spec(top)
    if spec is not None:
        roots += [Path(folder) for folder in spec.submodule_search_locations or ()]
        if not rest and spec.origin is not None and Path(spec.origin).is_file():
            roots.append(Path(spec.origin).with_suffix(""))
    for root in roots:
        path = root.joinpath(*rest)
        for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
            if file.is_file():
                return file
    raise ModelError(
        f"there is no module {'.'.join([top, *rest])!r}",
        where=source,
        hint=f"It is looked for in {base} and in what this Python can import.",
    )


def _folder(path: Path) -> Path:
    if path.suffix.lower() == ".gguf" or (
        path.is_dir() and not model_files(path) and any(path.glob("*.gguf"))
    ):
        raise ModelError(
            "GGUF files hold generating language models; no task here can use one as its teacher",
            where=str(path),
            hint="Name a folder with config.json, model.safetensors and a tokenizer.",
        )
    if not path.is_dir():
        raise ModelError(
            "a model is a folder with config.json, model.safetensors and a tokenizer; this is a file",
            where=str(path),
        )
    return path


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / MODEL_CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"no {MODEL_CONFIG} here: this folder holds no model", where=str(folder)) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"this file is damaged: {error}", where=str(file)) from error
    if not isinstance(config, dict):
        raise ModelError("expected a mapping", where=str(file))
    return config


def _cached_config(spec: TeacherSpec) -> dict[str, Any] | None:
    file = _cached_file(spec.model, spec.revision)
    return None if file is None else _read_config(file.parent)


def _cached_file(model: str, revision: str | None) -> Path | None:
    # Imported here: `compress validate` of a local model does not need it.
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, MODEL_CONFIG, revision=revision)
    return Path(found) if isinstance(found, str) else None
