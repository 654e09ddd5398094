"""Properties of a model, from its files, that determine what can be done with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.disk.source_uris import CODE, PACKAGE, expand_home, locate_package
from compress.core.errors import CompressError
from compress.models.anatomy.table.decoders import DECODERS
from compress.models.anatomy.table.families import (
    CONVOLUTIONAL,
    FAMILIES,
    max_tokens_of,
    why_not_taken_apart,
)
from compress.models.teacher.labels import head_names
from compress.profile.model_checks.architecture import EncoderSizes, encoder_sizes, vocabulary_kind
from compress.profile.model_checks.files import ModelFiles

_SENTENCES = ("modules.json", "config_sentence_transformers.json", "1_Pooling")
_GENERIC = "LABEL_"
_OLD_HEAD = "LMHeadModel"
"""Suffix of the class of GPT-2, which is older than `ForCausalLM`."""


@dataclass(frozen=True)
class ModelInfo:
    """A model as described by its files; `folder` is None if it is not on this machine, or is defined by code."""

    source: str
    folder: Path | None
    config: Mapping[str, Any]
    sizes: EncoderSizes | None = None
    cuts: str | None = None

    @property
    def kind(self) -> str | None:
        """Model family: `model_type` of its config."""
        named = self.config.get("model_type")
        return named if isinstance(named, str) else None

    @property
    def whole(self) -> str | None:
        """Why the model cannot be taken apart; None if it can, or this is unknown."""
        return None if self.kind is None else why_not_taken_apart(self.kind)

    @property
    def convolutional(self) -> bool:
        """Whether the model is, or may be, a convolutional network; models defined by code may be."""
        return self.source.startswith(CODE) or self.kind in CONVOLUTIONAL

    @property
    def longest(self) -> int | None:
        """Maximum number of tokens; None if unlimited or unknown."""
        return max_tokens_of(self.config) if self.config else None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the outputs; None without a head, or if they are generic."""
        try:
            names = head_names(self.config) if self.config else None
        except CompressError:
            return None
        return None if names is None or names[0].startswith(_GENERIC) else names

    @property
    def embeds_sentences(self) -> bool:
        """Whether the model is a sentence-transformers folder."""
        return self.folder is not None and any((self.folder / name).exists() for name in _SENTENCES)

    @property
    def writes(self) -> bool:
        """Whether the model is a causal language model."""
        gguf = self.source.lower().endswith(".gguf")
        plain = not self._classes or _OLD_HEAD in self._classes
        return gguf or "ForCausalLM" in self._classes or (self.kind in DECODERS and plain)

    @property
    def sees(self) -> bool:
        """Whether the model takes images."""
        if "ForImageClassification" in self._classes or (
            self.kind in FAMILIES and FAMILIES[str(self.kind)].takes == "images"
        ):
            return True
        beside = self.folder is not None and (self.folder / "preprocessor_config.json").is_file()
        return "vocab_size" not in self.config and ("image_size" in self.config or beside)

    @property
    def _classes(self) -> str:
        """Class names of the model in its config (`architectures`)."""
        classes = self.config.get("architectures")
        return " ".join(map(str, classes)) if isinstance(classes, list) else ""


def inspect_model(source: str) -> ModelInfo:
    """Describe a model from files on this machine; a path is relative to the working directory."""
    files = ModelFiles(Path.cwd())
    config = files.config(source) or {}
    return ModelInfo(source, place_of(source), config, encoder_sizes(config), vocabulary_kind(source, files))


def place_of(source: str) -> Path | None:
    """Return the path of a source; None if it is not on this machine."""
    if source.startswith(PACKAGE):
        try:
            return locate_package(source)
        except CompressError:
            return None
    path = expand_home(source)
    return path if os.path.exists(path) else None
