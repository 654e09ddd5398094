"""Checks that the files of a local model are complete and readable, from their headers only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from compress.core.artifacts import MODEL_CONFIG, MODULE, TOKENIZER, TORCH_WEIGHTS
from compress.core.disk.reading import read_mapping
from compress.core.errors import CompressError, ModelError
from compress.models.teacher.location import shards_of
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.tokenizers import tokenizer_missing_problem
from compress.tasks.table import task_kind

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def file_faults(folder: Path, task: str, files: ModelFiles) -> Iterator[ModelError]:
    """Yield what is missing or damaged of config, weights and, for texts, tokenizer."""
    if (folder / MODULE).is_file():
        # A module from user code has no config and no tokenizer of its own.
        yield from _weights(folder)
        return
    lacking = list(_mapping(files, folder / MODEL_CONFIG, "config-missing"))
    yield from lacking
    yield from _weights(folder)
    if task_kind(task).items == "image":
        return
    if (
        lacking
        and (problem := tokenizer_missing_problem({file.name for file in folder.iterdir()})) is not None
    ):
        # If there is a config, `checkpoint_problems` reports it.
        yield problem.error(str(folder))
    if (folder / TOKENIZER).is_file():
        yield from _mapping(files, folder / TOKENIZER, "tokenizer-missing")


def _mapping(files: ModelFiles, file: Path, code: str) -> Iterator[ModelError]:
    try:
        files.parsed(file)
    except FileNotFoundError:
        yield ModelError(f"no {file.name} here", where=str(file.parent), code=code)
    except ModelError as error:
        yield error


def _weights(folder: Path) -> Iterator[ModelError]:
    try:
        shards = shards_of(folder)
    except CompressError as error:
        yield ModelError(
            error.message, where=error.where, hint=error.hint, code=error.code or "weights-index"
        )
        return
    if not shards and not (folder / TORCH_WEIGHTS).is_file():
        pickled = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        yield ModelError(
            f"no {TORCH_WEIGHTS} here"
            + (f"; {pickled[0]} is a pickle, which is never loaded" if pickled else ""),
            where=str(folder),
            hint="Save the model as safetensors: `model.save_pretrained(folder)`.",
            code="weights-missing",
        )
        return
    files = shards if not (folder / TORCH_WEIGHTS).is_file() else {TORCH_WEIGHTS}
    held: dict[str, set[str]] = {}
    for name in sorted(files):
        try:
            held[name] = _names(folder / name)
        except ModelError as error:
            yield error
    if files == shards:
        yield from _index(folder, held)


def _names(file: Path) -> set[str]:
    """Return the names of the weights in a file, from its header, which must agree with the file size."""
    # Imported here: it imports numpy, and other mistakes in a profile should be reported without that delay.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            return set(tensors.keys())
    except FileNotFoundError as error:
        raise ModelError(
            f"{file.name} is missing, which the index names", where=str(file.parent), code="weights-missing"
        ) from error
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"these weights cannot be read: {error}",
            where=str(file),
            hint="Copy or download the file again: it may be incomplete.",
            code="weights-damaged",
        ) from error


def _index(folder: Path, held: dict[str, set[str]]) -> Iterator[ModelError]:
    """Yield an error if an index assigns weights to a file that lacks them."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        placed = read_mapping(index)["weight_map"]
        lost = sorted(name for name, file in placed.items() if file in held and name not in held[file])
        if lost:
            yield ModelError(
                f"{placed[lost[0]]} does not hold {lost[0]!r}, which the index places there"
                + (f"; {len(lost)} such weights" if len(lost) > 1 else ""),
                where=str(index),
                code="weights-index",
            )
