"""Entries of `passes`, `- name: {...}`, one type for each registered pass."""

from __future__ import annotations

from typing import Annotated, Any

from compress.core.entries import Entry, SingleKeyUnion
from compress.core.errors import UsageError
from compress.passes.contract import PassSpec
from compress.passes.table import PASSES


def _spec_types() -> dict[str, Any]:
    for name, kind in PASSES.items():
        if kind.spec.kind != name:
            raise UsageError(
                f"the plugin {PASSES.plugins[name]} has another name in its spec: {kind.spec.kind!r}",
                code="plugin-broken",
            )
    return {name: kind.body or kind.spec for name, kind in PASSES.items()}


PASS_ENTRIES: SingleKeyUnion[PassSpec] = SingleKeyUnion(Entry[PassSpec], _spec_types())
PassEntry = Annotated[Entry[PassSpec], PASS_ENTRIES]
