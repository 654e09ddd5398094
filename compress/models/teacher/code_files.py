"""The source files of the code named by `python:module:function`, found without importing it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

from compress.core.disk.files import sha256_file
from compress.core.disk.reading import read_whole
from compress.core.disk.source_uris import CODE, missing_source
from compress.core.errors import ModelError

_OURS = "compress"
_INSTALLED = frozenset({"site-packages", "dist-packages"})


def module_file(source: str, base: Path) -> Path:
    """Return the file of the module of `python:module:function`, searching `base` first, without importing it.

    Raises:
        ModelError: `source` does not have that form, or there is no such module.
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
        hint=f"It was looked for in {base} and among the modules that this Python can import.",
    )


def code_files(source: str, base: Path) -> dict[str, Path]:
    """Return the module names and files that the code of `python:module:function` consists of, its own module first.

    These are the module and all modules that it imports from the same place: the profile's folder, or its own
    package. For a module in site-packages, only its own file: an installed package is replaced rather than edited,
    and may have thousands of files.

    Raises:
        ModelError: as `module_file`.
    """
    file, name = module_file(source, base), source.removeprefix(CODE).partition(":")[0]
    root = file.parents[name.count(".") + (file.name == "__init__.py")]
    top = name.partition(".")[0]
    own = root.resolve() == base.resolve()
    if not own and _INSTALLED.intersection(file.parts):
        return {name: file}
    found, waiting = {name: file}, [*_packages_of(name), *_imports(name, file)]
    while waiting:
        one = waiting.pop()
        first = one.partition(".")[0]
        # `compress` is not user code, even if it is in the same folder.
        if one in found or first == _OURS or not (own or first == top):
            continue
        path = root.joinpath(*one.split("."))
        places = (path.with_name(f"{path.name}.py"), path / "__init__.py")
        place = next((place for place in places if place.is_file()), None)
        if place is not None:
            found[one] = place
            waiting += [*_packages_of(one), *_imports(one, place)]
    return found


def code_sha256(source: str, base: Path, sha256: Callable[[Path], str] = sha256_file) -> str:
    """Return the hash that identifies the code of `python:module:function`.

    It is the sha256 of its file, or a combined one if `code_files` finds several files.

    Raises:
        ModelError: as `module_file`.
    """
    first, *others = ((name, sha256(file)) for name, file in code_files(source, base).items())
    lines = "".join(f"{name}\0{found}\n" for name, found in (first, *sorted(others)))
    return hashlib.sha256(lines.encode()).hexdigest() if others else first[1]


def _packages_of(name: str) -> list[str]:
    """Parent packages, which are imported before a module: `a` and `a.b` of `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _imports(name: str, file: Path) -> Iterator[str]:
    """Yield the modules that a module may import, including imported names that may turn out not to be modules."""
    try:
        tree = ast.parse(read_whole(file))
    except (SyntaxError, ValueError, RecursionError):
        # The error is reported when the module is imported.
        return
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                yield from (*_packages_of(one.name), one.name)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            if module:
                yield from (*_packages_of(module), module)
            yield from (".".join(filter(None, [module, one.name])) for one in node.names)
