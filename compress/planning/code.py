"""Digest of the code that a module depends on: its own source and that of everything it imports from this package."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from functools import cache
from pathlib import Path

_PACKAGE = "compress"
_EXCLUDED = (
    # Infrastructure of every step, which does not affect results.
    "compress/core/errors.py",
    "compress/core/plugins.py",
    "compress/core/disk/exhaustion.py",
    "compress/core/disk/files.py",
    "compress/core/terminal/progress.py",
    "compress/core/units.py",
    "compress/core/records.py",
    "compress/passes/contract.py",
    "compress/core/spec.py",
    "compress/core/entries.py",
    "compress/losses/contract.py",
    "compress/losses/table.py",
    "compress/profile/",
    # The list of tasks; the code of the task in use is added separately.
    "compress/tasks/table.py",
)
_FROM_IMPORT = re.compile(
    r"(?:^|[;:])[ \t]*from[ \t]+([\w.]+)[ \t]+import\b[ \t]*(\((?:[^)#]|#[^\n]*)*\)|[^\n;]*)", re.MULTILINE
)
_IMPORT = re.compile(r"(?:^|[;:])[ \t]*import[ \t]+([^\n;#]*)", re.MULTILINE)


@cache
def code_digest(module: str) -> str:
    """Return the sha256 over the source of a module (all files of a package) and of everything that it imports from
    this package or, for a plugin, from the plugin's own package."""
    digest = hashlib.sha256()
    for name, source in sorted(imported_files(module).items()):
        digest.update(name.encode() + b"\0" + source + b"\0")
    return digest.hexdigest()


def imported_files(module: str) -> dict[str, bytes]:
    """Return the content of the files that `code_digest` covers, by path relative to the folder of their package."""
    sources: dict[str, bytes] = {}
    folder = os.path.join(_package_root(module.partition(".")[0]), *module.split("."))
    pending = [module, *(f"{module}.{file.stem}" for file in Path(folder).glob("*.py"))]
    while pending:
        name, source, imports = _read_module(pending.pop())
        if name and name not in sources and not name.startswith(_EXCLUDED):
            sources[name] = source
            pending += imports
    return sources


@cache
def _read_module(module: str) -> tuple[str, bytes, tuple[str, ...]]:
    """Return the path of a module's file, its content and the modules that it may import; empty if not a module."""
    package, root = module.partition(".")[0], _package_root(module.partition(".")[0])
    base = os.path.join(root, *module.split("."))
    for file in (f"{base}.py", os.path.join(base, "__init__.py")):
        if os.path.isfile(file):
            source = Path(file).read_bytes()
            imports = imports_in(source.decode())
            own = tuple(name for name in imports if name.split(".")[0] in (package, _PACKAGE))
            return Path(os.path.relpath(file, root)).as_posix(), source, own
    return "", b"", ()


def imports_in(source: str) -> set[str]:
    """Return every module that a source may import.

    Uses regular expressions, ten times faster than parsing. False matches (names in a module, examples in strings) are
    not modules, or at worst invalidate a cached step.
    """
    source = source.replace("\\\n", " ")
    modules: set[str] = set()
    for module, names in _FROM_IMPORT.findall(source):
        modules |= {module, *(f"{module}.{name}" for name in re.findall(r"\w+", names))}
    for names in _IMPORT.findall(source):
        modules.update(re.findall(r"[\w.]+", names))
    return modules


@cache
def _package_root(package: str) -> str:
    """Return the folder that contains a package; the import system is asked only for packages of plugins."""
    if package == _PACKAGE:
        return str(Path(__file__).parents[2])
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parents[1 if spec.submodule_search_locations else 0])
