"""What lies in the folders of models on this machine, read without loading anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.core.artifacts import STRUCTURE
from compress.core.disk.reading import read_mapping
from compress.core.disk.source_uris import CONFIG, local_path
from compress.core.errors import CompressError
from compress.core.forms import TORCH_FLOAT, Form, Structure
from compress.core.units import MIB
from compress.profile.specs.decoder import decoder_of

_MOST_HEADER = 100 * MIB


class ModelFiles:
    """The files of the models that a profile names, each parsed once: a tokenizer may have a million entries.

    Args:
        base: the folder that relative paths start at.
        places: the folders of models of the hub that were fetched, by their ids.
    """

    def __init__(self, base: Path, places: Mapping[str, Path] | None = None) -> None:
        self.base = base
        self._folders: dict[str, Path | None] = dict(places or {})
        self._read: dict[Path, dict[str, Any] | Exception] = {}

    def folder(self, source: str) -> Path | None:
        """Where a model stands; None for one that is not on this machine, and for code."""
        if source not in self._folders:
            try:
                self._folders[source] = local_path(source, self.base)
            except CompressError:
                # Whatever is wrong with the source itself is reported where it is fetched.
                self._folders[source] = None
        return self._folders[source]

    def is_here(self, source: str) -> bool:
        """Whether all that a model is made of lies on this machine; of code nobody knows."""
        if not source.startswith(CONFIG):
            return self.folder(source) is not None
        tokenizer = decoder_of(source).tokenizer
        return not isinstance(tokenizer, str) or self.folder(tokenizer) is not None

    def parsed(self, file: Path) -> dict[str, Any]:
        """The mapping that a JSON file holds.

        Raises:
            FileNotFoundError: there is no such file.
            ModelError: it cannot be read.
        """
        if file not in self._read:
            try:
                self._read[file] = read_mapping(file)
            except (CompressError, OSError) as error:
                self._read[file] = error
        found = self._read[file]
        if isinstance(found, Exception):
            raise found
        return found

    def mapping(self, file: Path) -> dict[str, Any] | None:
        """The same; None where there is none that can be read, which is said where it is loaded."""
        try:
            return self.parsed(file)
        except (CompressError, OSError):
            return None

    def json(self, source: str | None, name: str) -> dict[str, Any] | None:
        """A JSON file of a model that lies on this machine; None where there is none that can be read."""
        folder = None if source is None else self.folder(source)
        return None if folder is None else self.mapping(folder / name)

    def config(self, source: str | None) -> dict[str, Any] | None:
        """The `config.json` of a model; None where it is not on this machine, or no model of transformers."""
        if source is not None and source.startswith(CONFIG):
            spec = decoder_of(source)
            return dict(spec.fresh.config(positions=spec.positions))
        return self.json(source, "config.json")

    def form(self, source: str | None) -> Form:
        """The form of a model: whether its maps are factored, as far as its files tell."""
        factored = "factors" in (self.json(source, STRUCTURE) or {})
        return TORCH_FLOAT.with_(structure=Structure.FACTORED) if factored else TORCH_FLOAT

    def model_type(self, source: str | None) -> str | None:
        """The `model_type` in a model's config; None where nobody knows it."""
        kind = (self.config(source) or {}).get("model_type")
        return kind if isinstance(kind, str) else None


def header(file: Path) -> dict[str, Any]:
    """The names, types and shapes in a safetensors file; empty for what is none."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            found = json.loads(stream.read(length)) if length <= _MOST_HEADER else {}
    except (OSError, ValueError, RecursionError):
        return {}  # damaged files are named where they are loaded
    return found if isinstance(found, dict) else {}
