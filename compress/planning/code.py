"""The code that a module runs through, as one digest: its own source and that of all it imports from this package."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from functools import cache
from pathlib import Path

_OURS = "compress"
_CONTRACT = (
    # What every step is run through; its own behaviour does not enter a result.
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
    # Which tasks there are beside the one whose data are read.
    "compress/tasks/table.py",
)
_FROM = re.compile(
    r"(?:^|[;:])[ \t]*from[ \t]+([\w.]+)[ \t]+import\b[ \t]*(\((?:[^)#]|#[^\n]*)*\)|[^\n;]*)", re.MULTILINE
)
_IMPORT = re.compile(r"(?:^|[;:])[ \t]*import[ \t]+([^\n;#]*)", re.MULTILINE)


@cache
def code_digest(module: str) -> str:
    """sha256 over the source of a module (of a package: all its files) and of all it imports from this package, or
    from its own where a distribution adds it."""
    digest = hashlib.sha256()
    for name, source in sorted(imported_files(module).items()):
        digest.update(name.encode() + b"\0" + source + b"\0")
    return digest.hexdigest()


def imported_files(module: str) -> dict[str, bytes]:
    """What these files hold, by their names below the folder of their package."""
    found: dict[str, bytes] = {}
    folder = os.path.join(_home(module.partition(".")[0]), *module.split("."))
    waiting = [module, *(f"{module}.{file.stem}" for file in Path(folder).glob("*.py"))]
    while waiting:
        name, source, imports = _read(waiting.pop())
        if name and name not in found and not name.startswith(_CONTRACT):
            found[name] = source
            waiting += imports
    return found


@cache
def _read(module: str) -> tuple[str, bytes, tuple[str, ...]]:
    """The name of a module's file, what it holds and the modules that it may import; nothing of what is no module."""
    package, home = module.partition(".")[0], _home(module.partition(".")[0])
    base = os.path.join(home, *module.split("."))
    for file in (f"{base}.py", os.path.join(base, "__init__.py")):
        if os.path.isfile(file):
            source = Path(file).read_bytes()
            imports = imports_in(source.decode())
            own = tuple(name for name in imports if name.split(".")[0] in (package, _OURS))
            return Path(os.path.relpath(file, home)).as_posix(), source, own
    return "", b"", ()


def imports_in(source: str) -> set[str]:
    """Every module that a source may import. Found as text, which takes a tenth of the time of parsing it; what it
    finds beyond the imports (names in a module, examples in strings) is no module, or costs a cached step at worst."""
    source = source.replace("\\\n", " ")
    found: set[str] = set()
    for module, names in _FROM.findall(source):
        found |= {module, *(f"{module}.{name}" for name in re.findall(r"\w+", names))}
    for names in _IMPORT.findall(source):
        found.update(re.findall(r"[\w.]+", names))
    return found


@cache
def _home(package: str) -> str:
    """The folder that holds a package; only of one that a distribution adds the importer is asked."""
    if package == _OURS:
        return str(Path(__file__).parents[2])
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parents[1 if spec.submodule_search_locations else 0])
