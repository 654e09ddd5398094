"""Sentence embedding: one text, one vector; what counts is which texts come out alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.core.artifacts import TASK, TOKENIZER
from compress.core.errors import ModelError
from compress.data.splits import Examples
from compress.encoding.tokens import TokenInputs, encode_texts
from compress.profile.schema import DataSpec
from compress.tasks.base import Score, Truth
from compress.tasks.similarity import pair_similarities, similarities, spearman


@dataclass(frozen=True)
class SentenceEmbedding:
    """Texts cut to `max_length` tokens; scored by Spearman's correlation of their cosine similarities.

    They are compared with the given scores where the data holds pairs, else with the teacher's similarities of the same
    texts: over all pairs of up to 2,000 texts, over 2,000,000 evenly chosen ones of more. The model may be wider or
    narrower than its teacher.
    """

    name: ClassVar[str] = "sentence-embedding"
    metric: ClassVar[str] = "spearman"
    labelled: ClassVar[bool] = False
    data: DataSpec

    @classmethod
    def from_spec(cls, data: DataSpec) -> SentenceEmbedding:
        """The task of a profile's data."""
        return cls(data)

    def encode(self, examples: Examples, model: Path) -> TokenInputs:
        """Encode examples with the tokenizer of the artifact directory `model`."""
        return encode_texts(examples.texts, model / TOKENIZER, model / TASK)

    def needs_reference(self, examples: Examples) -> bool:
        """Where there are no given scores, the teacher's similarities take their place."""
        return examples.scores is None

    def score(self, outputs: NDArray[np.float32], truth: Truth) -> Score:
        """Spearman's correlation of the similarities of outputs (n, width) with the scores or the reference.

        Raises:
            ModelError: an output is not a finite number.
            ValueError: there is nothing to compare with, or it is of other examples.
        """
        check_finite(outputs)
        if truth.scores is not None:
            return Score(self.metric, spearman(pair_similarities(outputs), truth.scores))
        if truth.reference is None:
            raise ValueError("neither given scores nor the teacher's outputs to compare with")
        return Score(self.metric, spearman(similarities(outputs), similarities(truth.reference)))

    def predictions(self, outputs: NDArray[np.float32]) -> NDArray[np.int64]:
        """None: embeddings name no label."""
        return np.zeros(0, np.int64)


def check_finite(outputs: NDArray[np.float32]) -> None:
    """Refuse embeddings that have no direction.

    Raises:
        ModelError: an output is not a finite number.
    """
    if not np.isfinite(outputs).all():
        raise ModelError("the model's outputs are not finite numbers", hint="Did its training diverge?")
