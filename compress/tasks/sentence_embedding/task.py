"""Sentence embedding: one vector per text, judged by which texts are similar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.core.artifacts import TASK, TOKENIZER
from compress.core.task_kind import TaskKind
from compress.data.splits import Examples
from compress.encoding.interface import Interface
from compress.encoding.tokens import TokenInputs, encode_texts
from compress.profile.schema import DataSpec
from compress.tasks.base import Answers, Score, Truth, not_finite, wrong_shape
from compress.tasks.sentence_embedding import scorer as vector_scorer
from compress.tasks.sentence_embedding.kind import KIND
from compress.tasks.sentence_embedding.similarity import pair_similarities, similarities, spearman


class SentenceEmbedding:
    """Task on texts truncated to `max_length` tokens; scored by Spearman's correlation of their cosine similarities.

    They are compared with given scores if the data has pairs, else with the teacher's similarities of the same texts:
    over all pairs of up to 2,000 texts, or 2,000,000 evenly chosen ones of more. The widths of model and teacher may
    differ.
    """

    kind: ClassVar[TaskKind] = KIND
    scorer: ClassVar[Any] = vector_scorer

    def __init__(self, data: DataSpec) -> None:
        self.data = data

    def encode(self, examples: Examples, model: Path) -> TokenInputs:
        """Encode examples with the tokenizer of the artifact directory `model`."""
        return encode_texts(examples.texts, model / TOKENIZER, model / TASK)

    def scorable(self, examples: Examples) -> Examples:
        """Return all examples."""
        return examples

    def needs_reference(self, examples: Examples) -> bool:
        """Whether the teacher's similarities are needed because there are no given scores."""
        return examples.scores is None

    def settings(self, task_json: Mapping[str, Any]) -> dict[str, Any]:
        """Return no settings: a vector has no order."""
        return {}

    def check_outputs(self, shape: tuple[int, ...], task_json: Mapping[str, Any], where: str) -> None:
        """Reject outputs that are not one vector per text.

        Raises:
            ModelError: they have another shape.
        """
        interface = Interface.of(task_json)
        if interface is not None:
            interface.check_outputs(shape)
        elif len(shape) != 2:
            raise wrong_shape(shape, "some", where)

    def score(self, answers: Answers, truth: Truth) -> Score:
        """Return Spearman's correlation of the similarities of vectors with the given scores, or with the reference's.

        Raises:
            ModelError: an output is not finite.
            ValueError: there is nothing to compare with, or the number of examples differs.
        """
        vectors, metric = answers["vector"], self.kind.metric
        if not np.isfinite(vectors).all():
            raise not_finite()
        if truth.scores is not None:
            return Score(metric, spearman(pair_similarities(vectors), truth.scores))
        if truth.reference is None:
            raise ValueError("neither given scores nor the teacher's outputs to compare with")
        return Score(metric, spearman(similarities(vectors), similarities(truth.reference)))

    def divergence(self, reference: NDArray[np.float32], outputs: NDArray[np.float32]) -> float:
        """Return 1 - cosine similarity of embeddings (n, width), averaged over the texts."""
        expected, actual = reference.astype(np.float64), outputs.astype(np.float64)
        lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
        cosines = (expected * actual).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
        return float(1 - cosines.mean())
