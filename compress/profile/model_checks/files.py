"""Files in the folders of models on this machine, read without loading a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.core.artifacts import STRUCTURE
from compress.core.disk.reading import read_mapping
from compress.core.disk.source_uris import CONFIG_PREFIX, local_path
from compress.core.errors import CompressError
from compress.core.forms import TORCH_FLOAT, Form, Structure
from compress.core.units import MIB
from compress.profile.specs.decoder import decoder_of

_MAX_HEADER_BYTES = 100 * MIB


class ModelFiles:
    """Files of the models that a profile names, each parsed once: a tokenizer may have a million entries.

    Args:
        base: the folder that relative paths are resolved against.
        places: folders of downloaded hub models, by model id.
    """

    def __init__(self, base: Path, downloaded: Mapping[str, Path] | None = None) -> None:
        self.base = base
        self._folders: dict[str, Path | None] = dict(downloaded or {})
        self._parsed: dict[Path, dict[str, Any] | Exception] = {}

    def folder(self, source: str) -> Path | None:
        """Return the folder or file of a model; None if it is not on this machine, or is defined by code."""
        if source not in self._folders:
            try:
                self._folders[source] = local_path(source, self.base)
            except CompressError:
                # Faults of the source itself are reported where it is fetched.
                self._folders[source] = None
        return self._folders[source]

    def is_local(self, source: str) -> bool:
        """Whether everything that a model is made of is on this machine; False for models defined by code."""
        if not source.startswith(CONFIG_PREFIX):
            return self.folder(source) is not None
        tokenizer = decoder_of(source).tokenizer
        return not isinstance(tokenizer, str) or self.folder(tokenizer) is not None

    def parse(self, file: Path) -> dict[str, Any]:
        """Return the mapping in a JSON file.

        Raises:
            FileNotFoundError: there is no such file.
            ModelError: it cannot be read.
        """
        if file not in self._parsed:
            try:
                self._parsed[file] = read_mapping(file)
            except (CompressError, OSError) as error:
                self._parsed[file] = error
        result = self._parsed[file]
        if isinstance(result, Exception):
            raise result
        return result

    def parse_or_none(self, file: Path) -> dict[str, Any] | None:
        """Like `parse`, but None if the file is missing or unreadable, which is reported where it is loaded."""
        try:
            return self.parse(file)
        except (CompressError, OSError):
            return None

    def json(self, source: str | None, name: str) -> dict[str, Any] | None:
        """Return a JSON file of a model on this machine; None if it is missing or unreadable."""
        folder = None if source is None else self.folder(source)
        return None if folder is None else self.parse_or_none(folder / name)

    def config(self, source: str | None) -> dict[str, Any] | None:
        """Return the `config.json` of a model; None if the model is not on this machine, or is not of transformers."""
        if source is not None and source.startswith(CONFIG_PREFIX):
            spec = decoder_of(source)
            return dict(spec.fresh.config(max_positions=spec.positions))
        return self.json(source, "config.json")

    def form(self, source: str | None) -> Form:
        """Return the form of a model: whether its linear layers are factored, as far as its files show."""
        factored = "factors" in (self.json(source, STRUCTURE) or {})
        return TORCH_FLOAT.with_fields(structure=Structure.FACTORED) if factored else TORCH_FLOAT

    def model_type(self, source: str | None) -> str | None:
        """Return the `model_type` in a model's config; None if unknown."""
        kind = (self.config(source) or {}).get("model_type")
        return kind if isinstance(kind, str) else None


def header(file: Path) -> dict[str, Any]:
    """Return the names, dtypes and shapes in a safetensors header; empty if the file has none."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            fields = json.loads(stream.read(length)) if length <= _MAX_HEADER_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}  # damaged files are reported where they are loaded
    return fields if isinstance(fields, dict) else {}
