"""Calling the function named by `python:module:function`: the user's own code, run only if allowed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from compress.core.disk.source_uris import CODE_PREFIX
from compress.core.errors import ModelError
from compress.models.teacher.code_files import code_files, module_file
from compress.models.teacher.location import check_code_allowed


def call_function(source: str, base: Path, seed: int, *, allow_code: bool) -> Any:
    """Call the function of `python:module:function` and return its result; torch's random state is restored.

    All imports of user code pass through `import_function`, so permission is checked no matter how the source was
    named. A module in `base`, with what it imports from there, is re-imported at each call, so that the current
    contents of its files run.

    Args:
        base: the profile's folder, which is searched for the module first.
        seed: torch seed while the function runs, for weights that it initialises.
        allow_code: whether the user allowed code to run.

    Raises:
        UsageError: code is not allowed to run.
        ModelError: there is no such module or function, or it raised.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        function = import_function(source, base, allow_code=allow_code)
        try:
            with _importable(base):
                return function()
        except ModelError:
            raise
        except Exception as error:  # the user's own code may raise anything
            raise ModelError(f"{type(error).__name__}: {error}", where=source) from error


def import_function(
    source: str, base: Path, *, allow_code: bool, what: str = "this model is built"
) -> Callable[..., Any]:
    """Import and return the function named by `python:module:function`.

    Args:
        what: what the function does, for the error message.

    Raises:
        UsageError: code is not allowed to run.
        ModelError: there is no such module or function, or the module raised.
    """
    check_code_allowed(source, allow_code, what)
    file = module_file(source, base)
    module_name, _, function_name = source.removeprefix(CODE_PREFIX).partition(":")
    with _importable(base):
        try:
            imported = code_files(source, base)
            function: Callable[..., Any] = getattr(_import(module_name, file, base, imported), function_name)
        except ModelError:
            raise
        except Exception as error:  # the user's own code may raise anything
            raise ModelError(f"{type(error).__name__}: {error}", where=source) from error
    return function


def _import(name: str, file: Path, base: Path, names: Iterable[str]) -> ModuleType:
    """Import the module; if its file is in `base`, it and the modules of `names` are re-imported."""
    if file.resolve().is_relative_to(base.resolve()):
        for imported in names:
            sys.modules.pop(imported, None)
        importlib.invalidate_caches()
    module = importlib.import_module(name)
    if Path(module.__file__ or "").resolve() != file.resolve():
        raise ModelError(
            f"another module is already called {name!r}: {module.__file__}",
            where=str(file),
            hint="Give the module a unique name.",
        )
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Put the folder first on `sys.path`, and write no bytecode files into it."""
    written = sys.dont_write_bytecode
    sys.path.insert(0, str(folder.resolve()))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = written
        sys.path.remove(str(folder.resolve()))
