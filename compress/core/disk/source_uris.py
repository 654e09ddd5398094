"""Resolution of the sources named in a profile to local paths, without imports or downloads."""

from __future__ import annotations

import importlib.util
import os
import re
from importlib import metadata
from pathlib import Path

from compress.core.disk.safe_paths import name_fault, path_inside
from compress.core.errors import CompressError, ModelError

PACKAGE_PREFIX = "package://"
CODE_PREFIX = "python:"
SKLEARN_PREFIX = "sklearn://"
CONFIG_PREFIX = "config:"
"""Prefix of the JSON of a model that a profile describes by its configuration instead of naming one."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FILE_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet", ".gguf", ".safetensors", ".onnx", ".bin", ".txt")


def locate_package(uri: str, error: type[CompressError] = ModelError) -> Path:
    """Return the file or folder of `package://name/sub/folder`, without importing the package.

    `name` is the name of an installed module or of an installed distribution.

    Raises:
        error: the package is not installed, has no such path, or the path leads out of it (`outside-folder`).
    """
    name, _, subpath = uri.removeprefix(PACKAGE_PREFIX).partition("/")
    fault = name_fault(subpath) if subpath else None
    if not name or fault is not None:
        raise error(
            "expected `package://name/folder`, with a folder inside the package",
            where=uri,
            code="outside-folder",
        )
    roots = _module_folders(name) or _distribution_folders(name)
    if not roots:
        raise error(
            f"no package {name!r} is installed in this Python",
            where=uri,
            hint=f"Install it here: `pip install {name.replace('_', '-')}`.",
        )
    for root in roots:
        path = path_inside(root, subpath, where=uri, error=error) if subpath else root
        if path.exists():
            return path
    raise error(f"the package {name!r} has no {subpath!r}", where=uri, hint=f"It is in {roots[0]}.")


def local_path(source: str, base: Path, error: type[CompressError] = ModelError) -> Path | None:
    """Return the local path of `source`; None for a hub id, `python:module:function` or `config:`.

    A path is resolved against `base`, the profile's folder. A text that could be a path or a hub id, such as
    `bert/tiny`, is a path if it exists.

    Raises:
        error: a `package://` source or a path does not exist.
    """
    if source.startswith(PACKAGE_PREFIX):
        return locate_package(source, error)
    if source.startswith((CODE_PREFIX, CONFIG_PREFIX)):
        return None
    path = base / expand_home(source)
    # Unlike Path.exists, this does not raise for texts that are too long for a path.
    if os.path.exists(path):
        return path.resolve()
    if is_hub_id(source):
        return None
    raise error(f"there is no {path}", where=source, hint="Paths are relative to the profile's folder.")


def expand_home(path: str) -> Path:
    """Expand `~` in a path; a `~` of an unknown user is left unchanged."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):
        return Path(path)


def is_hub_id(source: str) -> bool:
    """Whether the text has the form of a hub repository id: `name` or `owner/name`."""
    return _HUB_ID.fullmatch(source) is not None and not source.lower().endswith(_FILE_SUFFIXES)


def source_fault(source: str, base: Path) -> str | None:
    """Return what is wrong with a source, checking only the local disk; None if nothing was found."""
    if source.startswith(CODE_PREFIX):
        well_formed = re.fullmatch(r"python:[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", source)
        return None if well_formed else "expected `python:module:function`"
    if source.startswith(CONFIG_PREFIX):
        return "expected the name of a model"
    if source.startswith(SKLEARN_PREFIX):
        return None
    try:
        local_path(source, base)
    except ModelError as error:
        return error.message
    return None


def _module_folders(name: str) -> list[Path]:
    """Return the folders of an importable top-level package."""
    if not name.isidentifier():
        return []
    spec = importlib.util.find_spec(name)
    return [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []


def _distribution_folders(name: str) -> list[Path]:
    """Return the folders of the top-level packages of an installed distribution."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return []
    modules = {file.parts[0] for file in distribution.files or () if len(file.parts) > 1}
    modules.update((distribution.read_text("top_level.txt") or "").split())
    return [folder for module in sorted(modules) for folder in _module_folders(module)]
