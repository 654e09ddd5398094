"""The keys that the task adds to `data`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compress.profile.schema import DataSpec


class CharacterData(DataSpec):
    """Documents that are read character by character."""

    alphabet: Annotated[str, Field(min_length=2)] = "abcdefghijklmnopqrstuvwxyz .,"
    """The characters that are told apart; all others are one more."""
