"""Parse YAML into plain values together with the line number of each value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from compress.core.disk.reading import read_limited
from compress.core.errors import Fault, ProfileError, UsageError
from compress.core.units import MIB

KeyPath = tuple[str | int, ...]
"""Path of a value: keys and indices from the root."""

_MAX_PROFILE_BYTES = MIB // 4
_MAX_VALUES = 20_000
_MAX_DEPTH = 50
_MAX_DIGITS = 40
"""Maximum number of digits; floats and 64-bit integers need at most 25."""
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_INDEX = re.compile("[0-9]{1,6}")
_CONTROL_CHARS = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
"""Characters forbidden in a profile: control characters except tab and line feed, and unpaired surrogates."""


@dataclass(frozen=True)
class ProfileSource:
    """A profile as written: its text, its plain values, and the line of every value.

    Attributes:
        overridden: paths that `--set` replaced, mapped to the option as written, in order of application.
        blank: paths of keys without a value.
    """

    file: str
    text: str
    base: Path
    values: dict[str, Any]
    lines: Mapping[KeyPath, int]
    overridden: Mapping[KeyPath, str] = field(default_factory=dict)
    blank: frozenset[KeyPath] = frozenset()

    @property
    def text_with_overrides(self) -> str:
        """The text, preceded by the `--set` options that changed it, as comments."""
        comments = [f"# {line}\n" for option in self.overridden.values() for line in option.splitlines()]
        return "".join((*comments, self.text))

    def fault(self, path: KeyPath, message: str, code: str | None = None, exit_code: int = 2) -> Fault:
        """Return a fault at `path`, located at the `--set` option that set it, else at the line of the closest
        value."""
        dotted = ".".join(str(part) for part in path)
        # A value replaced as a whole is no longer in the file; one created by an assignment below it never was.
        options = [
            option
            for overridden_path, option in self.overridden.items()
            if path[: len(overridden_path)] == overridden_path
        ]
        if not options and self.lines and path not in self.lines:
            options = [
                option
                for overridden_path, option in self.overridden.items()
                if overridden_path[: len(path)] == path
            ]
        if options:
            return Fault(options[-1], None, dotted, message, code, exit_code)
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return Fault(self.file, self.lines[path[:length]], dotted, message, code, exit_code)
        return Fault(self.file, None, dotted, message, code, exit_code)


class _Loader(yaml.SafeLoader):
    """Safe loader that reads as strings what only YAML 1.1 takes for a date or a number.

    `2026-01-01` stays a string, as in JSON, and so do `1:30` (90 in YAML 1.1), `1_000` and `0b1`; `010` is ten (8 in
    YAML 1.1).
    """

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        """Parse an integer: decimal, `0x1f` or `0o17`."""
        digits = str(self.construct_scalar(node))
        if len(digits) > _MAX_DIGITS:
            raise yaml.MarkedYAMLError(problem="a number with too many digits", problem_mark=node.start_mark)
        return int(digits, {"0x": 16, "0o": 8}.get(digits[:2].lower(), 10))


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:timestamp", _INT, _FLOAT)
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _INT, re.compile(r"[-+]?[0-9]+$|0x[0-9a-fA-F]+$|0o[0-7]+$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)
_Loader.add_constructor(_INT, _Loader.construct_integer)


def read_source(file: Path) -> ProfileSource:
    """Read a profile's YAML, without executing anything in it.

    Raises:
        ProfileError: the file cannot be read, is not YAML, is not a mapping, or has duplicate keys.
    """
    name = str(file)
    try:
        text = read_limited(file, error=UsageError, max_bytes=_MAX_PROFILE_BYTES).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ProfileError([Fault(name, None, "", "cannot be read: No such file or directory")]) from error
    except UsageError as error:
        raise ProfileError([Fault(name, None, "", error.message, error.code)]) from error
    except UnicodeDecodeError as error:
        raise ProfileError([Fault(name, None, "", "not UTF-8 text")]) from error
    return parse_source(text, name, file.parent)


def parse_source(text: str, name: str, folder: Path) -> ProfileSource:
    """Parse the YAML of a profile, whether or not it comes from a file.

    Args:
        name: its name in faults.
        folder: the folder that relative paths in it are resolved against.

    Raises:
        ProfileError: it is not YAML, is not a mapping, or has duplicate keys.
    """
    lines: dict[KeyPath, int] = {(): 1}
    blank: set[KeyPath] = set()
    values = _parse_values(text, name, lines, blank)
    if values is None:
        raise ProfileError([Fault(name, 1, "", "the profile is empty; `compress init` writes one")])
    if not isinstance(values, dict):
        raise ProfileError([Fault(name, 1, "", "expected keys such as `name:` and `passes:`")])
    return ProfileSource(name, text, folder.absolute(), values, lines, blank=frozenset(blank))


def _parse_values(
    text: str, name: str, lines: dict[KeyPath, int], blank: set[KeyPath], *, with_lines: bool = True
) -> Any:
    """Return the plain values of a YAML text; record their lines in `lines`, and paths without a value in `blank`.

    Args:
        name: name of the text in faults.
        with_lines: whether faults include line numbers.

    Raises:
        ProfileError: it is not YAML, or has duplicate keys, control characters, or more values than a profile may have.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            faults = _index_lines(node, (), lines, blank, name)
            if faults:
                raise ProfileError(faults if with_lines else [replace(one, line=None) for one in faults])
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark and with_lines else None
        raise ProfileError([Fault(name, line, "", f"not YAML: {error.problem or error.context}")]) from error
    except yaml.YAMLError as error:
        raise ProfileError([Fault(name, None, "", f"not YAML: {error}")]) from error
    except RecursionError:
        raise ProfileError([Fault(name, None, "", "nested too deeply: not a profile")]) from None
    except ValueError as error:
        # A tagged value (`!!int x`) whose text is not of that type.
        raise ProfileError([Fault(name, None, "", f"not YAML: {error}")]) from error


def override(source: ProfileSource, assignments: tuple[str, ...]) -> ProfileSource:
    """Apply `--set passes.0.distill.epochs=2` assignments; values are parsed as YAML.

    Raises:
        ProfileError: an assignment without `=`, or with a path that does not exist.
    """
    values = source.values
    overridden: dict[KeyPath, str] = {}
    for assignment in assignments:
        option = f"--set {assignment}"
        dotted, separator, yaml_text = assignment.partition("=")
        if not separator or not dotted.strip():
            raise ProfileError(
                [Fault(option, None, "", "expected `path=value`, as in `passes.0.distill.epochs=2`")]
            )
        parts = dotted.strip().split(".")
        if len(parts) > _MAX_DEPTH or _CONTROL_CHARS.search(dotted):
            raise ProfileError([Fault(option, None, "", "no profile has such a path")])
        path: KeyPath = tuple(int(part) if _INDEX.fullmatch(part) else part for part in parts)
        value = _parse_values(yaml_text, option, {}, set(), with_lines=False)
        try:
            values = with_value(values, path, value)
        except (KeyError, IndexError, TypeError) as error:
            raise ProfileError([Fault(option, None, dotted, f"the profile has no {error}")]) from error
        # This assignment replaces earlier ones at or below its path.
        overridden = {
            other_path: one for other_path, one in overridden.items() if other_path[: len(path)] != path
        }
        overridden[path] = option
    return replace(source, values=values, overridden=overridden)


def with_value(node: Any, path: KeyPath, value: Any) -> Any:
    """Return a copy of `node` with the value at `path` replaced; only the last part of the path may be a new key."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(node, list):
        if not isinstance(head, int):
            raise TypeError(f"key `{head}` in a list: give a number")
        if head >= len(node):
            raise IndexError(f"entry {head}: the list has {len(node)}")
        return [with_value(item, rest, value) if i == head else item for i, item in enumerate(node)]
    if node is None:
        node = {}
    if not isinstance(node, dict):
        raise TypeError(f"`{head}` below the value {node!r}")
    key = str(head)
    child = node.get(key) if rest else None
    return {**node, key: with_value(child, rest, value)}


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _index_lines(
    node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], blank: set[KeyPath], file: str
) -> list[Fault]:
    """Record the line of every value below `node`, and which have no value; return faults.

    Faults are duplicate or non-string keys, control characters, and too many or too deeply nested values.
    """
    if len(lines) > _MAX_VALUES or len(path) > _MAX_DEPTH:
        # Nested aliases multiply: a small file may expand to billions of values, and a self-reference without end.
        problem = f"more than {_MAX_VALUES} values" if len(lines) > _MAX_VALUES else "nested too deeply"
        return [Fault(file, _line(node), "", f"{problem}: not a profile")]
    faults: list[Fault] = []
    if isinstance(node, yaml.ScalarNode) and _CONTROL_CHARS.search(node.value):
        dotted = ".".join(str(part) for part in path)
        return [Fault(file, _line(node), dotted, "contains a control character", "control-character")]
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null" and not node.value:
        blank.add(path)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            child_path = (*path, key)
            dotted = ".".join(str(part) for part in child_path)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                faults.append(Fault(file, _line(key_node), ".".join(map(str, path)), "a key must be a word"))
                continue
            if _CONTROL_CHARS.search(key):
                faults.append(
                    Fault(file, _line(key_node), dotted, "contains a control character", "control-character")
                )
            if key in seen:
                faults.append(
                    Fault(file, _line(key_node), dotted, f"duplicate key; first on line {seen[key]}")
                )
            seen.setdefault(key, _line(key_node))
            lines[child_path] = _line(key_node)
            faults += _index_lines(value_node, child_path, lines, blank, file)
            if len(lines) > _MAX_VALUES:
                break
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = _line(item)
            faults += _index_lines(item, (*path, index), lines, blank, file)
            if len(lines) > _MAX_VALUES:
                break
    return faults[:50]
