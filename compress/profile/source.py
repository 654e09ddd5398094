"""YAML text with its line numbers: plain values, and the line on which each of them stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from compress.errors import Fault, ProfileError
from compress.units import MIB

Path_ = tuple[str | int, ...]
"""Where a value stands: keys and indices from the root."""

_LARGEST_PROFILE_BYTES = MIB
_MOST_VALUES = 20_000


@dataclass(frozen=True)
class ProfileSource:
    """A profile as it was written: its text, its plain values, and the line of every value.

    `overridden` maps the paths that `--set` replaced to the words that did it.
    """

    file: str
    text: str
    base: Path
    values: dict[str, Any]
    lines: Mapping[Path_, int]
    overridden: Mapping[Path_, str] = field(default_factory=dict)

    def fault(self, path: Path_, message: str, code: str | None = None, exit_code: int = 2) -> Fault:
        """A fault at `path`, with the line of the nearest value that was written there."""
        shown = ".".join(str(part) for part in path)
        for length in range(len(path), -1, -1):
            if path[:length] in self.overridden:
                return Fault(self.overridden[path[:length]], None, shown, message, code, exit_code)
            if path[:length] in self.lines:
                return Fault(self.file, self.lines[path[:length]], shown, message, code, exit_code)
        return Fault(self.file, None, shown, message, code, exit_code)


class _Loader(yaml.SafeLoader):
    """The safe loader, without dates: `2026-01-01` stays the text it is in every other format."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_source(file: Path) -> ProfileSource:
    """Read a profile's YAML, without executing anything in it.

    Raises:
        ProfileError: the file cannot be read, is not YAML, or is not a mapping; keys that stand twice.
    """
    shown = str(file)
    try:
        if file.stat().st_size > _LARGEST_PROFILE_BYTES:
            raise ProfileError([Fault(shown, None, "", "larger than 1 MiB: not a profile")])
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ProfileError([Fault(shown, None, "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ProfileError([Fault(shown, None, "", "not UTF-8 text")]) from error
    return parse_source(text, shown, file.parent)


def parse_source(text: str, shown: str, folder: Path) -> ProfileSource:
    """A profile's YAML as it stands in no file yet, or was read from one.

    Args:
        shown: what faults call it.
        folder: where paths in it start.

    Raises:
        ProfileError: it is not YAML, or is not a mapping; keys that stand twice.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise ProfileError([Fault(shown, 1, "", "the profile is empty; `compress init` writes one")])
        if not isinstance(node, yaml.MappingNode):
            raise ProfileError([Fault(shown, _line(node), "", "expected keys such as `name:` and `passes:`")])
        lines: dict[Path_, int] = {(): 1}
        faults = _walk(node, (), lines, shown)
        if faults:
            raise ProfileError(faults)
        values = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise ProfileError([Fault(shown, line, "", f"not YAML: {error.problem or error.context}")]) from error
    except yaml.YAMLError as error:
        raise ProfileError([Fault(shown, None, "", f"not YAML: {error}")]) from error
    finally:
        loader.dispose()
    return ProfileSource(shown, text, folder.absolute(), values, lines)


def override(source: ProfileSource, assignments: tuple[str, ...]) -> ProfileSource:
    """Apply `--set passes.0.distill.epochs=2` assignments; a value is read as YAML.

    Raises:
        ProfileError: an assignment without `=`, or a path that leads through nothing.
    """
    values = source.values
    overridden: dict[Path_, str] = {}
    for assignment in assignments:
        word = f"--set {assignment}"
        dotted, separator, written = assignment.partition("=")
        if not separator or not dotted.strip():
            raise ProfileError(
                [Fault(word, None, "", "expected `path=value`, as in `passes.0.distill.epochs=2`")]
            )
        path: Path_ = tuple(int(part) if part.isdecimal() else part for part in dotted.strip().split("."))
        try:
            value = yaml.load(written, Loader=_Loader)
        except yaml.YAMLError as error:
            raise ProfileError([Fault(word, None, "", f"the value is not YAML: {written}")]) from error
        try:
            values = _replaced(values, path, value)
        except (KeyError, IndexError, TypeError) as error:
            raise ProfileError([Fault(word, None, dotted, f"the profile has no {error}")]) from error
        overridden[path] = word
    return ProfileSource(source.file, source.text, source.base, values, source.lines, overridden)


def _replaced(node: Any, path: Path_, value: Any) -> Any:
    """A copy of `node` with the value at `path` replaced; a new key may be the last part only."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(node, list):
        if not isinstance(head, int):
            raise TypeError(f"key `{head}` in a list: give a number")
        if head >= len(node):
            raise IndexError(f"entry {head}: the list has {len(node)}")
        return [_replaced(item, rest, value) if i == head else item for i, item in enumerate(node)]
    if node is None:
        node = {}
    if not isinstance(node, dict):
        raise TypeError(f"`{head}` below the value {node!r}")
    key = str(head)
    child = node.get(key) if rest else None
    return {**node, key: _replaced(child, rest, value)}


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _walk(node: yaml.Node, path: Path_, lines: dict[Path_, int], file: str) -> list[Fault]:
    """Note the line of every value below `node`; the faults are keys that stand twice or are not text."""
    if len(lines) > _MOST_VALUES:
        # Nested aliases multiply: a small file may stand for billions of values.
        return [Fault(file, _line(node), "", f"more than {_MOST_VALUES} values: not a profile")]
    faults: list[Fault] = []
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            place = (*path, key)
            shown = ".".join(str(part) for part in place)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                faults.append(Fault(file, _line(key_node), ".".join(map(str, path)), "a key must be a word"))
                continue
            if key in seen:
                faults.append(Fault(file, _line(key_node), shown, f"stands twice; first on line {seen[key]}"))
            seen.setdefault(key, _line(key_node))
            lines[place] = _line(key_node)
            faults += _walk(value_node, place, lines, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = _line(item)
            faults += _walk(item, (*path, index), lines, file)
    return faults[:50]
