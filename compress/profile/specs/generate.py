"""How a language model writes further texts of each label."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from compress.core.spec import HubName, Positive, Seed
from compress.profile.specs.license import LicensedSpec
from compress.profile.specs.training import FinetuneSpec, LoraSpec

LABEL = "{label}"
"""Placeholder of the label in `ask`."""
PROMPT_RESERVE = 64
"""Tokens reserved for `ask` beside a text; if it has more, the text does not fit into one training window."""


class TuningSpec(FinetuneSpec):
    """How the model is trained on the training texts."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 3
    """Passes over the training texts."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Peak learning rate of AdamW; to train all weights (`lora: null`), use a tenth of it."""
    batch_size: Positive = 16
    """Examples per step."""
    lora: LoraSpec | None = LoraSpec()
    """Train LoRA updates only and merge them into the weights afterwards; `null`: train all weights."""


class GenerateSpec(LicensedSpec):
    """Texts written by a small language model that is trained on the training texts with their labels (LAMBADA,
    Anaby-Tavor et al. 2020). Near-duplicates of each other and of training, validation and test texts are dropped."""

    model: Annotated[str, Field(min_length=1)]
    """Model that writes: a decoder, as `teacher.model` of language models (a hub id, a folder, a GGUF file)."""
    revision: HubName | None = None
    """Commit or tag of a hub model; unset: its main branch."""
    count: Positive
    """Number of texts in total, divided evenly among the labels."""
    ask: str = f"{LABEL}:\n"
    """Text that precedes each text in training and generation; `{label}` is replaced by the name of the label, with `_`
    and `-` as spaces."""
    finetune: TuningSpec = TuningSpec()
    """How the model is trained on the training texts."""
    most: Positive | None = None
    """Maximum tokens of a text; longer training texts are cut to as many words. Unset: `data.max_length`."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample from this many of the most likely tokens; 0: from all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Nucleus sampling: sample from the most likely tokens whose probabilities add up to this; 1: from all."""
    seed: Seed | None = None
    """Seed of the sampling; unset: the profile's."""
    batch_size: Positive = 32
    """Texts generated at once."""
    tries: Positive = 4
    """Maximum number of texts written per text wanted of a label; if too many of them are dropped, the label gets
    fewer."""
    agree: bool = True
    """Keep only the texts that the teacher assigns to the requested label, as LAMBADA does. `false`: keep all, with the
    teacher's labels (He et al. 2022); fewer texts have to be written."""

    @model_validator(mode="after")
    def _check_placeholder(self) -> GenerateSpec:
        if LABEL not in self.ask:
            raise ValueError(f"`ask` must contain {LABEL}, which the name of the label replaces")
        return self

    def max_text_tokens(self, max_length: int) -> int:
        """Return the maximum number of tokens of a generated text, given the `max_length` of the data."""
        return self.most or max_length

    def needed_tokens(self, max_length: int) -> int:
        """Return the number of tokens, prompt included, that the generating model must accept."""
        return PROMPT_RESERVE + self.max_text_tokens(max_length)
