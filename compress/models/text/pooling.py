"""The pooling of token vectors declared by a model folder, in our own file or in sentence-transformers' modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from compress.core.artifacts import POOLING
from compress.core.disk.reading import read_json
from compress.core.disk.safe_paths import path_inside
from compress.core.errors import ModelError

MODULES = "modules.json"
POOLING_FOLDER = "1_Pooling"

PoolingMode = Literal["mean", "cls"]
_MODE_PREFIX = "pooling_mode_"
_OWN_MODES: Mapping[str, PoolingMode] = {"mean_tokens": "mean", "cls_token": "cls"}


@dataclass(frozen=True)
class Pooling:
    """Mean over the real tokens, or the first token (`cls`); whether the vector is then normalised to length 1."""

    mode: PoolingMode
    normalize: bool


MEAN = Pooling("mean", normalize=False)
"""Default if nothing is declared."""


def read_pooling(folder: Path, override: PoolingMode | None = None) -> Pooling:
    """Return the pooling of a model folder: from its `pooling.json`, else its `modules.json`, else the plain mean.

    Args:
        override: the profile's `teacher.pooling`, which replaces the folder's mode; normalisation stays as declared
            in the folder.

    Raises:
        ModelError: a file is damaged, or the folder declares an unsupported pooling.
    """
    if (folder / POOLING).is_file():
        pooling = _read_own_file(folder / POOLING)
    elif (folder / MODULES).is_file():
        pooling = _read_modules(folder, override)
    else:
        pooling = MEAN
    return pooling if override is None else Pooling(override, pooling.normalize)


def _read_own_file(file: Path) -> Pooling:
    values = _read(file)
    if isinstance(values, dict):
        mode, normalize = values.get("pooling"), values.get("normalize")
        if mode in ("mean", "cls") and isinstance(normalize, bool):
            return Pooling(cast(PoolingMode, mode), normalize)
    raise ModelError('expected {"pooling": "mean" or "cls", "normalize": true or false}', where=str(file))


def _read_modules(folder: Path, override: PoolingMode | None) -> Pooling:
    """Read the modules of a sentence-transformers folder: a transformer, its pooling, optionally a normalisation."""
    file = folder / MODULES
    values = _read(file)
    if not isinstance(values, list) or not all(isinstance(one, dict) for one in values):
        raise ModelError("expected a list of modules", where=str(file))
    mode: PoolingMode = "mean"
    normalize = False
    for module in values:
        kind, module_path = str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))
        if kind == "Transformer":
            if module_path not in ("", "."):
                raise ModelError(
                    f"the transformer is in the sub-folder {module_path!r}; name that folder as the model",
                    where=str(folder),
                    hint="Then set `teacher.pooling` too: the pooling is declared in the parent folder.",
                )
        elif kind == "Pooling":
            if override is None:
                mode = _mode(path_inside(folder, f"{module_path}/config.json", where=str(file)))
        elif kind == "Normalize":
            normalize = True
        else:
            raise ModelError(
                f"the transformer is followed by a {kind or 'module without a type'}, which would be lost; "
                "known are Pooling and Normalize",
                where=str(file),
            )
    return Pooling(mode, normalize)


def _mode(file: Path) -> PoolingMode:
    values = _read(file)
    if not isinstance(values, dict):
        raise ModelError("expected a mapping", where=str(file))
    # Newer files have the name of the mode, older ones a flag for each.
    mode_name = values.get("pooling_mode")
    enabled = (
        [str(mode_name)]
        if isinstance(mode_name, str)
        else [
            name.removeprefix(_MODE_PREFIX)
            for name, on in values.items()
            if name.startswith(_MODE_PREFIX) and on is True
        ]
    )
    short: Mapping[str, PoolingMode] = {**_OWN_MODES, "mean": "mean", "cls": "cls"}
    if len(enabled) == 1 and enabled[0] in short:
        return short[enabled[0]]
    raise ModelError(
        f"this model pools by {' and '.join(enabled) or 'nothing'}; supported are mean_tokens and cls_token",
        where=str(file),
        hint="Set `teacher.pooling` to mean or cls to use that instead.",
    )


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except FileNotFoundError as error:
        raise ModelError("this file is missing", where=str(file)) from error
