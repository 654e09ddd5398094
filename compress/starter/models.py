"""Properties of a model, from its files, that determine what can be done with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.disk.source_uris import CODE_PREFIX, PACKAGE_PREFIX, expand_home, locate_package
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

_SENTENCE_FILES = ("modules.json", "config_sentence_transformers.json", "1_Pooling")
_GENERIC_LABEL = "LABEL_"
_GPT2_HEAD = "LMHeadModel"
"""Suffix of the class of GPT-2, which is older than `ForCausalLM`."""


@dataclass(frozen=True)
class ModelInfo:
    """A model as described by its files; `folder` is None if it is not on this machine, or is defined by code."""

    source: str
    folder: Path | None
    config: Mapping[str, Any]
    sizes: EncoderSizes | None = None
    tokenizer: str | None = None

    @property
    def model_type(self) -> str | None:
        """Model family: `model_type` of its config."""
        model_type = self.config.get("model_type")
        return model_type if isinstance(model_type, str) else None

    @property
    def why_whole(self) -> str | None:
        """Why the model cannot be taken apart; None if it can, or this is unknown."""
        return None if self.model_type is None else why_not_taken_apart(self.model_type)

    @property
    def may_be_convolutional(self) -> bool:
        """Whether the model is, or may be, a convolutional network; models defined by code may be."""
        return self.source.startswith(CODE_PREFIX) or self.model_type in CONVOLUTIONAL

    @property
    def max_tokens(self) -> int | None:
        """Maximum number of tokens; None if unlimited or unknown."""
        return max_tokens_of(self.config) if self.config else None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the outputs; None without a head, or if they are generic."""
        try:
            names = head_names(self.config) if self.config else None
        except CompressError:
            return None
        return None if names is None or names[0].startswith(_GENERIC_LABEL) else names

    @property
    def embeds_sentences(self) -> bool:
        """Whether the model is a sentence-transformers folder."""
        return self.folder is not None and any((self.folder / name).exists() for name in _SENTENCE_FILES)

    @property
    def is_causal_lm(self) -> bool:
        """Whether the model is a causal language model."""
        is_gguf = self.source.lower().endswith(".gguf")
        no_other_head = not self._architectures or _GPT2_HEAD in self._architectures
        return (
            is_gguf or "ForCausalLM" in self._architectures or (self.model_type in DECODERS and no_other_head)
        )

    @property
    def takes_images(self) -> bool:
        """Whether the model takes images."""
        if "ForImageClassification" in self._architectures or (
            self.model_type in FAMILIES and FAMILIES[str(self.model_type)].modality == "images"
        ):
            return True
        has_preprocessor = self.folder is not None and (self.folder / "preprocessor_config.json").is_file()
        return "vocab_size" not in self.config and ("image_size" in self.config or has_preprocessor)

    @property
    def _architectures(self) -> str:
        """Class names of the model in its config (`architectures`)."""
        architectures = self.config.get("architectures")
        return " ".join(map(str, architectures)) if isinstance(architectures, list) else ""


def inspect_model(source: str) -> ModelInfo:
    """Describe a model from files on this machine; a path is relative to the working directory."""
    files = ModelFiles(Path.cwd())
    config = files.config(source) or {}
    return ModelInfo(
        source, local_path_of(source), config, encoder_sizes(config), vocabulary_kind(source, files)
    )


def local_path_of(source: str) -> Path | None:
    """Return the path of a source; None if it is not on this machine."""
    if source.startswith(PACKAGE_PREFIX):
        try:
            return locate_package(source)
        except CompressError:
            return None
    path = expand_home(source)
    return path if os.path.exists(path) else None
