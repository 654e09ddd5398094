"""What the files of a model tell of what can be made of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.disk.source_uris import CODE, PACKAGE, at_home, locate_package
from compress.core.errors import CompressError
from compress.models.anatomy.table.decoders import DECODERS
from compress.models.anatomy.table.families import (
    CONVOLUTIONAL,
    FAMILIES,
    most_tokens,
    why_whole,
)
from compress.models.teacher.labels import head_names
from compress.profile.model_checks.architecture import EncoderSizes, encoder_sizes, vocabulary_kind
from compress.profile.model_checks.files import ModelFiles

_SENTENCES = ("modules.json", "config_sentence_transformers.json", "1_Pooling")
_GENERIC = "LABEL_"
_OLD_HEAD = "LMHeadModel"
"""What the class of GPT-2 is called, which is older than the usual name."""


@dataclass(frozen=True)
class ModelSeen:
    """A model as its files show it; `folder` is None for what is not on this machine, and for code."""

    source: str
    folder: Path | None
    config: Mapping[str, Any]
    sizes: EncoderSizes | None = None
    cuts: str | None = None

    @property
    def kind(self) -> str | None:
        """The family, as `model_type` of its config names it."""
        named = self.config.get("model_type")
        return named if isinstance(named, str) else None

    @property
    def whole(self) -> str | None:
        """Why it cannot be taken apart; None where it can, or nobody knows."""
        return None if self.kind is None else why_whole(self.kind)

    @property
    def convolutional(self) -> bool:
        """Whether it is, or may be, a network of convolutions: code is."""
        return self.source.startswith(CODE) or self.kind in CONVOLUTIONAL

    @property
    def longest(self) -> int | None:
        """How many tokens it takes; None where nothing bounds them, or nobody knows."""
        return most_tokens(self.config) if self.config else None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of its outputs; None where it has no head, or one that does not name them."""
        try:
            names = head_names(self.config) if self.config else None
        except CompressError:
            return None
        return None if names is None or names[0].startswith(_GENERIC) else names

    @property
    def embeds_sentences(self) -> bool:
        """Whether it is a folder of sentence-transformers."""
        return self.folder is not None and any((self.folder / name).exists() for name in _SENTENCES)

    @property
    def writes(self) -> bool:
        """Whether it is a decoder that goes on with texts."""
        gguf = self.source.lower().endswith(".gguf")
        plain = not self._classes or _OLD_HEAD in self._classes
        return gguf or "ForCausalLM" in self._classes or (self.kind in DECODERS and plain)

    @property
    def sees(self) -> bool:
        """Whether it is a model of images."""
        if "ForImageClassification" in self._classes or (
            self.kind in FAMILIES and FAMILIES[str(self.kind)].takes == "images"
        ):
            return True
        beside = self.folder is not None and (self.folder / "preprocessor_config.json").is_file()
        return "vocab_size" not in self.config and ("image_size" in self.config or beside)

    @property
    def _classes(self) -> str:
        """What its config calls the classes of the model."""
        classes = self.config.get("architectures")
        return " ".join(map(str, classes)) if isinstance(classes, list) else ""


def look_at_model(source: str) -> ModelSeen:
    """What a model is, as far as files on this machine tell; a path is looked up from here."""
    files = ModelFiles(Path.cwd())
    config = files.config(source) or {}
    return ModelSeen(source, place_of(source), config, encoder_sizes(config), vocabulary_kind(source, files))


def place_of(source: str) -> Path | None:
    """Where a source stands; None for what is not on this machine."""
    if source.startswith(PACKAGE):
        try:
            return locate_package(source)
        except CompressError:
            return None
    path = at_home(source)
    return path if os.path.exists(path) else None
