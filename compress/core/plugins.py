"""Tables of built-in names that installed distributions extend through entry points; entries are imported when used.

A distribution adds a pass with

    [project.entry-points."compress.passes"]
    cluster = "its_package.cluster:CLUSTER"
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from typing import Any, Generic, TypeVar

from compress.core.errors import UsageError

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Plugin:
    """An entry point: its group, its name in the table, its `module:attribute`, and its distribution and version."""

    group: str
    name: str
    target: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.name!r} of {self.distribution} {self.version} ({self.group})"


@cache
def plugins(group: str) -> tuple[Plugin, ...]:
    """Return the entry points that installed distributions add to a group, sorted by name, without importing them."""
    entry_points = {
        Plugin(group, point.name, point.value, point.dist.name, point.dist.version)
        for point in metadata.entry_points(group=group)
        if point.dist is not None
    }
    return tuple(sorted(entry_points, key=lambda one: (one.name, one.distribution)))


class Table(Mapping[str, Kind], Generic[Kind]):
    """Lazily imported descriptors by name: first the built-in ones, then those of plugins.

    Args:
        group: the entry point group that extends the table.
        kind: the class of a descriptor.
        built_in: `module:attribute` of each built-in name.

    Raises:
        UsageError: on access, if two distributions add the same name, or one adds a built-in name.
    """

    def __init__(self, group: str, kind: type[Kind], built_in: Mapping[str, str]) -> None:
        self.group = group
        self._kind = kind
        self._built_in = dict(built_in)
        self._loaded: dict[str, Kind] = {}

    @cached_property
    def plugins(self) -> Mapping[str, Plugin]:
        """The plugins of this table by name."""
        by_name: dict[str, Plugin] = {}
        for plugin in plugins(self.group):
            existing = "compress itself" if plugin.name in self._built_in else by_name.get(plugin.name)
            if existing is not None:
                raise UsageError(
                    f"{plugin.name!r} is defined twice in {self.group}: by {plugin.distribution} "
                    f"{plugin.version} and by "
                    f"{existing if isinstance(existing, str) else f'{existing.distribution} {existing.version}'}",
                    hint="Uninstall one of the distributions.",
                    code="plugin-name",
                )
            by_name[plugin.name] = plugin
        return by_name

    def __getitem__(self, name: str) -> Kind:
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._built_in
        yield from self.plugins

    def __len__(self) -> int:
        return len(self._built_in) + len(self.plugins)

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or name in self.plugins

    def _load(self, name: str) -> Kind:
        if name in self._built_in:
            descriptor = import_object(self._built_in[name])
            assert isinstance(descriptor, self._kind)
            return descriptor
        plugin = self.plugins[name]
        try:
            descriptor = import_object(plugin.target)
        # Any exception raised while importing third-party code is attributed to the plugin.
        except Exception as error:
            raise UsageError(
                f"the plugin {plugin} cannot be loaded: {type(error).__name__}: {error}",
                hint=f"Repair {plugin.distribution}, or uninstall it.",
                code="plugin-broken",
            ) from error
        if not isinstance(descriptor, self._kind):
            raise UsageError(
                f"the plugin {plugin} is not a {self._kind.__name__}: {plugin.target} is a {type(descriptor).__name__}",
                hint=f"Repair {plugin.distribution}, or uninstall it.",
                code="plugin-broken",
            )
        return descriptor


def call_named(target: str, *arguments: object) -> Any:
    """Import the function named by `module:function` and call it."""
    function: Any = import_object(target)
    return function(*arguments)


def import_object(target: str) -> object:
    """Import and return the object named by `module:attribute`."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
