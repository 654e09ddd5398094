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
        yield from _weight_faults(folder)
        return
    lacking = list(_json_faults(files, folder / MODEL_CONFIG, "config-missing"))
    yield from lacking
    yield from _weight_faults(folder)
    if task_kind(task).items == "image":
        return
    if (
        lacking
        and (problem := tokenizer_missing_problem({file.name for file in folder.iterdir()})) is not None
    ):
        # If there is a config, `checkpoint_problems` reports it.
        yield problem.error(str(folder))
    if (folder / TOKENIZER).is_file():
        yield from _json_faults(files, folder / TOKENIZER, "tokenizer-missing")


def _json_faults(files: ModelFiles, file: Path, code: str) -> Iterator[ModelError]:
    try:
        files.parse(file)
    except FileNotFoundError:
        yield ModelError(f"no {file.name} here", where=str(file.parent), code=code)
    except ModelError as error:
        yield error


def _weight_faults(folder: Path) -> Iterator[ModelError]:
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
    names_by_file: dict[str, set[str]] = {}
    for name in sorted(files):
        try:
            names_by_file[name] = _tensor_names(folder / name)
        except ModelError as error:
            yield error
    if files == shards:
        yield from _index_faults(folder, names_by_file)


def _tensor_names(file: Path) -> set[str]:
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


def _index_faults(folder: Path, names_by_file: dict[str, set[str]]) -> Iterator[ModelError]:
    """Yield an error if an index assigns weights to a file that lacks them."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        weight_map = read_mapping(index)["weight_map"]
        missing = sorted(
            name
            for name, file in weight_map.items()
            if file in names_by_file and name not in names_by_file[file]
        )
        if missing:
            yield ModelError(
                f"{weight_map[missing[0]]} does not hold {missing[0]!r}, which the index places there"
                + (f"; {len(missing)} such weights" if len(missing) > 1 else ""),
                where=str(index),
                code="weights-index",
            )
