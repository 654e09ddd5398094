"""The entries of `passes`: `- name: {...}`, one for each pass in the table."""

from __future__ import annotations

from typing import Annotated

from compress.core.entries import Entry, OneKey
from compress.passes.contract import PassSpec
from compress.passes.table import PASSES

PASS_ENTRIES: OneKey[PassSpec] = OneKey(Entry[PassSpec], {name: kind.spec for name, kind in PASSES.items()})
PassEntry = Annotated[Entry[PassSpec], PASS_ENTRIES]
