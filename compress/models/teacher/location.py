"""Locating, checking and fingerprinting a teacher before any heavy import."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from compress.core.artifacts import (
    ENSEMBLE,
    MODEL_CONFIG,
    MODULE,
    ONNX_MODEL,
    POOLING,
    STRUCTURE,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from compress.core.disk.reading import content_errors, read_mapping
from compress.core.disk.safe_paths import path_inside
from compress.core.disk.source_uris import CODE_PREFIX, CONFIG_PREFIX, local_path
from compress.core.disk.watched import FileDigests
from compress.core.errors import ModelError, UsageError, first_line
from compress.models.teacher.code_files import code_sha256, module_file
from compress.models.teacher.labels import check_head, check_task, head_names
from compress.models.text.pooling import MODULES, POOLING_FOLDER, read_pooling
from compress.models.text.sentence_settings import PROMPTS_FILE, TRANSFORMER_FILES, read_sentence_settings
from compress.profile.model_checks.adapters import ADAPTER
from compress.profile.model_checks.checkpoints import checkpoint_problems, ensemble_problem
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.problem import Problem
from compress.profile.model_checks.tokenizers import VOCABULARY_FILES, tokenizer_missing_problem
from compress.profile.schema import TeacherSpec
from compress.profile.specs.decoder import decoder_of
from compress.tasks.table import task_kind

PREPROCESSOR = "preprocessor_config.json"
"""Describes the image preprocessing of a transformers vision model."""
PROCESSOR = "processor_config.json"
"""The same, in a file that holds all processors of a model."""

TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "merges.txt",
    TOKENIZER_CONFIG,
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""File names and patterns of a tokenizer."""

MODEL_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    MODEL_CONFIG,
    "generation_config.json",
    STRUCTURE,
    MODULE,
    PREPROCESSOR,
    PROCESSOR,
    POOLING,
    MODULES,
    f"{POOLING_FOLDER}/{MODEL_CONFIG}",
    PROMPTS_FILE,
    *TRANSFORMER_FILES,
    ADAPTER,
    *TOKENIZER_FILES,
)
"""The model files that are read; nothing else is downloaded from the hub or included in a fingerprint."""

GGUF = ".gguf"
"""Suffix of llama.cpp's files, which hold a language model with its tokenizer."""
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
_ONNX_HINT = (
    "An ONNX file cannot be trained or pruned; name the model that it was exported from. "
    "`compress measure` can measure the file as it is."
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fingerprint(
    model: str, revision: str | None, base: Path, digests: FileDigests | None = None
) -> str | None:
    """Return a key for the content of a model source; None for a hub model that is not on this machine yet.

    A folder: sha256 over the names and bytes of its model files. A hub id: the commit. `python:`: `code_sha256`. A
    model described in the profile: its description and the fingerprint of its tokenizer.

    Raises:
        ModelError: there is no such folder, package or module.
    """
    digests = digests or FileDigests()
    if model.startswith(CODE_PREFIX):
        return f"code:{code_sha256(model, base, digests.sha256)}:{model.rpartition(':')[2]}"
    if model.startswith(CONFIG_PREFIX):
        tokenizer = decoder_of(model).tokenizer
        tokenizer_key = fingerprint(tokenizer, None, base, digests) if isinstance(tokenizer, str) else ""
        return None if tokenizer_key is None else f"{model} {tokenizer_key}"
    folder = local_path(model, base)
    if folder is None:
        commit = hub_commit(model, revision)
        return None if commit is None else f"hub:{model}@{commit}"
    if folder.suffix.lower() in (GGUF, ".json"):
        return f"files:{digests.sha256(folder)}"
    folder = _checked_folder(folder)
    files = model_files(folder)
    return (
        "files:"
        + hashlib.sha256(
            "".join(f"{file.relative_to(folder)}\0{digests.sha256(file)}\n" for file in files).encode()
        ).hexdigest()
    )


def check_teacher(
    spec: TeacherSpec,
    labels: Sequence[str],
    base: Path,
    *,
    allow_code: bool,
    task: str,
    files: ModelFiles | None = None,
) -> None:
    """Refuse an unusable teacher before any work; only its config is read.

    A hub model that is not on this machine yet is downloaded here, so that its commit is known from then on. The
    result of a `python:` function is checked when it is called.

    Args:
        files: cache of model files already read.

    Raises:
        UsageError: it is code, and `--allow-code` was not given.
        ModelError: it is missing, not a model, or for another task, needs `finetune` because its head does not fit
            the labels, or, for sentence embedding, is to be fine-tuned or has an unknown pooling.
    """
    if task_kind(task).head == "pooled" and spec.finetune is not None:
        raise ModelError(
            "a sentence encoder cannot be fine-tuned here: the data has no labels to train it on",
            where="teacher.finetune",
            hint="Leave `finetune` out, and name a model that was trained for sentence similarity.",
        )
    if spec.model.startswith(CODE_PREFIX):
        check_code_allowed(spec.model, allow_code)
        module_file(spec.model, base)
        return
    if spec.config is not None:
        if isinstance(spec.config.tokenizer, str):
            tokenizer_path(spec.config.tokenizer, base)
        return
    folder = model_folder(spec.model, spec.revision, base, task)
    if folder.is_file():
        return
    with content_errors("this model", str(folder)):
        _check_folder(folder, spec, labels, files or ModelFiles(base), allow_code=allow_code, task=task)


def _check_folder(
    folder: Path,
    spec: TeacherSpec,
    labels: Sequence[str],
    files: ModelFiles,
    *,
    allow_code: bool,
    task: str,
) -> None:
    if (folder / MODULE).is_file():
        check_code_allowed(spec.model, allow_code)
        if task_kind(task).items != "image":
            raise ModelError(
                "this model is a module from code, which has no tokenizer: it can be used for images only",
                where=spec.model,
                hint="Name a `python:module:function` that returns a model of transformers and its tokenizer.",
                code="module-without-tokenizer",
            )
        return
    if (folder / MODEL_CONFIG).is_file():
        # Checked first: what a model of another task lacks is irrelevant.
        check_task(_read_config(folder), task, spec.model)
    # Before reading the config, which a lone adapter lacks: this names the adapter in the error.
    for problem in checkpoint_problems(folder, task, files, uses_head=spec.finetune is None):
        raise problem.error(spec.model)
    config = _read_config(folder)
    if task_kind(task).head == "pooled":
        read_pooling(folder, spec.pooling)
        read_sentence_settings(folder)
    elif spec.finetune is None and task_kind(task).head == "classifier":
        check_head(head_names(config, spec.labels), labels, spec.model)


def model_folder(model: str, revision: str | None, base: Path, task: str) -> Path:
    """Return the local folder of a model; a hub model that is not here yet is downloaded, safetensors only.

    For a text-generating task it may be a GGUF file.

    Raises:
        ModelError: there is none, or it cannot be downloaded.
    """
    folder = local_path(model, base)
    if (
        folder is not None
        and folder.suffix.lower() == GGUF
        and task_kind(task).generates
        and folder.is_file()
    ):
        return folder
    if folder is not None:
        found = _checked_folder(folder)
    elif (cached := _cached_folder(model, revision, task)) is not None:
        found = _completed(model, cached)
    else:
        found = _download(model, revision)
    shards_of(found)
    return found


def tokenizer_path(source: str, base: Path) -> Path:
    """Return the folder, GGUF file or `tokenizer.json` of a tokenizer, downloading it from the hub if necessary.

    Raises:
        ModelError: there is none, or it cannot be downloaded.
    """
    path, where = local_path(source, base), "teacher.config.tokenizer"
    if path is None:
        path = _cached_snapshot(source, None)
        if path is None or _tokenizer_problem(path) is not None:
            # With the config, by which the commit is found.
            path = _download(source, None, (MODEL_CONFIG, *TOKENIZER_FILES))
        else:
            path = _completed(source, path, TOKENIZER_FILES)
    if path.is_file():
        if path.suffix.lower() not in (GGUF, ".json"):
            raise ModelError("expected a folder, a GGUF file or a tokenizer.json", where=where)
    elif (problem := _tokenizer_problem(path)) is not None:
        raise problem.error(where)
    return path


def check_code_allowed(model: str, allow_code: bool, what: str = "this model is built") -> None:
    """Raise unless the user allowed code to run.

    Raises:
        UsageError: it is not allowed.
    """
    if not allow_code:
        raise UsageError(
            f"{what} by running Python code, which is not allowed by default",
            where=model,
            hint="If you trust it, run again with `--allow-code`; in Python, with `allow_code=True`.",
            code="code-not-allowed",
        )


def model_files(folder: Path) -> list[Path]:
    """Return the model files of a folder, sorted by name."""
    found = {file for pattern in MODEL_FILES for file in folder.glob(pattern) if file.is_file()}
    return sorted(found, key=lambda file: str(file.relative_to(folder)))


def shards_of(folder: Path) -> set[str]:
    """Return the file names in the index of a sharded model; the files need not exist.

    Raises:
        ModelError: an index is damaged, or refers to something other than a safetensors file in its folder.
    """
    names: set[str] = set()
    for index in sorted(folder.glob("*.safetensors.index.json")):
        weight_map = read_mapping(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ModelError("expected a mapping `weight_map` of weights to files", where=str(index))
        for name in set(weight_map.values()):
            if path_inside(folder, name, where=str(index)).parent != folder or not name.endswith(
                ".safetensors"
            ):
                raise ModelError(f"{name!r} is not a safetensors file beside this one", where=str(index))
        names.update(weight_map.values())
    return names


def hub_commit(model: str, revision: str | None) -> str | None:
    """Return the commit of a revision of a hub model; None if this machine's hub cache does not know it."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    snapshot = _cached_snapshot(model, revision)
    return None if snapshot is None else snapshot.name


def _tokenizer_problem(folder: Path) -> Problem | None:
    return tokenizer_missing_problem({file.name for file in folder.iterdir()})


def _checked_folder(path: Path) -> Path:
    if (path / ENSEMBLE).is_file():
        raise ensemble_problem().error(str(path))
    if path.suffix.lower() == GGUF or (path.is_dir() and not model_files(path) and any(path.glob("*.gguf"))):
        raise ModelError(
            "GGUF files hold language models, which generate text; this task cannot use one as its teacher",
            where=str(path),
            hint="Set the task of models that write texts, or name a folder with config.json, model.safetensors and a "
            "tokenizer.",
        )
    if path.suffix.lower() in _PICKLES:
        raise ModelError(
            "this checkpoint is a pickle: it could run any code and is never loaded",
            where=str(path),
            hint="Save its weights as safetensors, and name a `python:module:function` that builds the model and "
            "loads them.",
        )
    if not path.is_dir():
        raise ModelError(
            "a model is a folder with config.json, model.safetensors and a tokenizer; this is a file",
            where=str(path),
            hint=_ONNX_HINT if path.suffix.lower() in (".onnx", ".ort") else None,
        )
    return path


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / MODEL_CONFIG
    try:
        return read_mapping(file)
    except FileNotFoundError as error:
        raise ModelError(
            f"no {MODEL_CONFIG} here: this is not a model folder",
            where=str(folder),
            hint=_ONNX_HINT if (folder / ONNX_MODEL).is_file() else None,
        ) from error


def _cached_folder(model: str, revision: str | None, task: str) -> Path | None:
    """Return the snapshot of a hub model in this machine's cache; None if a file that every model has is missing."""
    folder = _cached_snapshot(model, revision)
    if folder is None or not (folder / MODEL_CONFIG).is_file():
        return None
    names = {file.name for file in model_files(folder)}
    has_weights = any(name.endswith(".safetensors") for name in names)
    if task_kind(task).items == "image":
        has_preprocessing = PREPROCESSOR in names or PROCESSOR in names
    else:
        has_preprocessing = any(fnmatch(name, pattern) for name in names for pattern in VOCABULARY_FILES)
    return folder if has_weights and has_preprocessing and shards_of(folder) <= names else None


def _completed(model: str, snapshot: Path, files: Sequence[str] = MODEL_FILES) -> Path:
    """Fetch what a cached snapshot lacks of its own commit, since it may come from a partial fetch, and return it.

    The hub is asked for the list of files once; if it cannot be reached, the snapshot is used as it is.

    Raises:
        ModelError: the list names a file that is missing, and it cannot be fetched.
    """
    from huggingface_hub.errors import HTTPError

    try:
        return _download(model, snapshot.name, files)
    except ModelError as error:
        if isinstance(error.__cause__, HTTPError):
            return snapshot
        raise


def _download(model: str, revision: str | None, files: Sequence[str] = MODEL_FILES) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(files)))
    except (HTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"cannot fetch this model from the hub: {first_line(error)}",
            where=model,
            hint="Check the id, the network and HF_TOKEN; or name a local folder.",
        ) from error


def _cached_snapshot(model: str, revision: str | None) -> Path | None:
    """Return the folder of a hub repository in this machine's cache, which may lack files; None without one."""
    # Imported here: `compress validate` of a local model does not need it.
    from huggingface_hub import try_to_load_from_cache

    # A repository of a tokenizer alone has no config.
    for name in (MODEL_CONFIG, TOKENIZER, TOKENIZER_CONFIG):
        found = try_to_load_from_cache(model, name, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None
