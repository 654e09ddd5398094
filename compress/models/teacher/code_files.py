"""The source files of the code named by `python:module:function`, found without importing it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

from compress.core.disk.files import sha256_file
from compress.core.disk.reading import read_limited
from compress.core.disk.source_uris import CODE_PREFIX, source_fault
from compress.core.errors import ModelError

_OWN_PACKAGE = "compress"
_INSTALL_FOLDERS = frozenset({"site-packages", "dist-packages"})


def module_file(source: str, base: Path) -> Path:
    """Return the file of the module of `python:module:function`, searching `base` first, without importing it.

    Raises:
        ModelError: `source` does not have that form, or there is no such module.
    """
    if (fault := source_fault(source, base)) is not None:
        raise ModelError(fault, where=source)
    top, *rest = source.removeprefix(CODE_PREFIX).partition(":")[0].split(".")
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
    file, name = module_file(source, base), source.removeprefix(CODE_PREFIX).partition(":")[0]
    root = file.parents[name.count(".") + (file.name == "__init__.py")]
    top = name.partition(".")[0]
    in_base = root.resolve() == base.resolve()
    if not in_base and _INSTALL_FOLDERS.intersection(file.parts):
        return {name: file}
    files, pending = {name: file}, [*_parent_packages(name), *_imports(name, file)]
    while pending:
        module = pending.pop()
        package = module.partition(".")[0]
        # `compress` is not user code, even if it is in the same folder.
        if module in files or package == _OWN_PACKAGE or not (in_base or package == top):
            continue
        path = root.joinpath(*module.split("."))
        candidates = (path.with_name(f"{path.name}.py"), path / "__init__.py")
        module_path = next((module_path for module_path in candidates if module_path.is_file()), None)
        if module_path is not None:
            files[module] = module_path
            pending += [*_parent_packages(module), *_imports(module, module_path)]
    return files


def code_sha256(source: str, base: Path, sha256: Callable[[Path], str] = sha256_file) -> str:
    """Return the hash that identifies the code of `python:module:function`.

    It is the sha256 of its file, or a combined one if `code_files` finds several files.

    Raises:
        ModelError: as `module_file`.
    """
    first, *others = ((name, sha256(file)) for name, file in code_files(source, base).items())
    lines = "".join(f"{name}\0{digest}\n" for name, digest in (first, *sorted(others)))
    return hashlib.sha256(lines.encode()).hexdigest() if others else first[1]


def _parent_packages(name: str) -> list[str]:
    """Parent packages, which are imported before a module: `a` and `a.b` of `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _imports(name: str, file: Path) -> Iterator[str]:
    """Yield the modules that a module may import, including imported names that may turn out not to be modules."""
    try:
        tree = ast.parse(read_limited(file))
    except (SyntaxError, ValueError, RecursionError):
        # The error is reported when the module is imported.
        return
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from (*_parent_packages(alias.name), alias.name)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            if module:
                yield from (*_parent_packages(module), module)
            yield from (".".join(filter(None, [module, alias.name])) for alias in node.names)
