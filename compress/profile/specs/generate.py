"""How a language model writes further texts of each label."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from compress.core.spec import HubName, Positive
from compress.profile.specs.license import LicensedSpec
from compress.profile.specs.training import FinetuneSpec, LoraSpec

LABEL = "{label}"
"""What stands for the label in `ask`."""
ASKED = 64
"""Tokens of `ask` beside which a text has room; behind more of them it is learnt in parts."""


class TuningSpec(FinetuneSpec):
    """How the model learns the training texts."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 3
    """Passes over the training texts."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Peak learning rate of AdamW; of all weights (`lora: null`) a tenth of it serves."""
    batch_size: Positive = 16
    """Examples a step."""
    lora: LoraSpec | None = LoraSpec()
    """Train corrections of low rank alone, which are added to the weights in the end; `null`: train all weights."""


class GenerateSpec(LicensedSpec):
    """Texts that a small language model writes once it has learnt the training texts by their labels (LAMBADA,
    Anaby-Tavor et al. 2020). Near copies of other texts go."""

    model: Annotated[str, Field(min_length=1)]
    """The model that writes: a decoder, as `teacher.model` of language models (a hub id, a folder, a GGUF file)."""
    revision: HubName | None = None
    """Commit or tag of a hub model."""
    count: Positive
    """Texts in all, as many of each label."""
    ask: str = f"{LABEL}:\n"
    """What stands before each text while the model learns and writes, `{label}` in the place of the label's name, whose
    `_` and `-` become spaces."""
    finetune: TuningSpec = TuningSpec()
    """How it learns the training texts."""
    most: Positive | None = None
    """Tokens of a text, at most; longer training texts are cut to so many words. Unset: `data.max_length`."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """How evenly tokens are drawn."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Draw among so many of the likeliest tokens; 0: among all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Draw among the likeliest tokens that together have this probability."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seeds what is drawn; unset: the profile's."""
    batch_size: Positive = 32
    """Texts that are written at once."""
    tries: Positive = 4
    """For each text that is wanted of a label so many are written, at most: where too many of them go, the label has
    fewer."""
    agree: bool = False
    """Keep those alone to which the teacher gives the label that was asked for, as LAMBADA does; unset: all, for its
    answers to the others teach a student, too (He et al. 2022)."""

    @model_validator(mode="after")
    def _asks_by_label(self) -> GenerateSpec:
        if LABEL not in self.ask:
            raise ValueError(f"`ask` must hold {LABEL}, in whose place the name of the label stands")
        return self

    def longest(self, max_length: int) -> int:
        """Tokens of a text, at most, where the data's are cut to so many."""
        return self.most or max_length

    def room(self, max_length: int) -> int:
        """Tokens that the model must take at once."""
        return ASKED + self.longest(max_length)
