"""Synthetic texts for a teacher to label: sampled from its vocabulary, then mutated to cover all classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax

from compress.core.terminal.progress import Progress
from compress.profile.specs.examples import DataFreeSpec
from compress.training.checkpointing import load_checkpoint, save_checkpoint
from compress.training.data_free.words import (
    Ids,
    Probabilities,
    SpecialTokens,
    choose_words,
    class_word_probabilities,
    draw_texts,
    mix_tokens,
    mutate_text,
    zipf,
)

PredictLogits = Callable[[Sequence[Ids]], NDArray[np.float32]]
"""Function from texts, special tokens included, to the teacher's logits (n, classes)."""


@dataclass(frozen=True)
class SampledTexts:
    """Sampled texts and how the teacher classifies them.

    `ids`: int64 (length,) each, special tokens included. `words`: the ordinary tokens they are drawn from,
    int64; the student's vocabulary may be trimmed to them. `class_counts`: number of texts that the teacher puts
    into each class, int64 (classes,); `initial_class_counts`: the same before the first round; both None if no teacher
    was asked.
    """

    ids: list[Ids]
    words: Ids
    class_counts: NDArray[np.int64] | None
    initial_class_counts: NDArray[np.int64] | None


def sample_texts(
    words: Ids,
    frame: SpecialTokens,
    spec: DataFreeSpec,
    predict: PredictLogits | None,
    *,
    max_length: int,
    seed: int,
    work: Path,
    progress: Progress,
) -> SampledTexts:
    """Sample `spec.examples` texts for a teacher to label; no real text or frequency is used.

    They consist of `spec.words` words: the most frequent ones, and those that the teacher is most confident
    about. Each text is drawn for a class: a random share of its words from those that the teacher, given each
    word alone, considers likely for the class (Bayes' rule), the others by Zipf's law. Each text also has a
    target for the probability that the teacher gives its class, drawn uniformly, so that both clear and
    ambiguous texts occur. In each of `spec.rounds` rounds the texts that miss their target are mutated at
    random, and a mutation that raises the probability of the class is kept: hill climbing that needs only the
    teacher's answers.

    Model extraction by answers on nonsense: Krishna et al., Thieves on Sesame Street, 2020 (arXiv:1910.12366),
    who draw the words from real frequencies. Search by token changes: Ma et al., Adversarial Self-Supervised
    Data-Free Distillation, 2020 (arXiv:2010.04883), who use gradients.

    Equal arguments give equal texts, also after a kill: each round is checkpointed in `work`.

    Args:
        words: `ordinary_tokens` of the teacher's vocabulary.
        frame: the special tokens around a text.
        spec: `length` counts tokens without special ones.
        predict: None if the outputs are not classes: the texts are then drawn by Zipf's law alone.
        max_length: maximum length of a text, special tokens included.
        work: checkpoint folder of these texts alone.
    """
    room = max_length - len(frame.wrap(words[:0]))
    lengths = min(spec.length[0], room), min(spec.length[1], room)
    if predict is None:
        words = words[choose_words(min(spec.words, len(words)), None)]
        random = np.random.default_rng([seed, 0])
        sampled = draw_texts(words, zipf(len(words)), lengths, spec.examples, random)
        return SampledTexts([frame.wrap(text) for text in sampled], words, None, None)

    def log_probabilities(texts: Sequence[Ids]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = log_softmax(predict([frame.wrap(text) for text in texts]), axis=1)
        return result

    plan = {"spec": spec.model_dump(mode="json"), "seed": seed, "words": len(words), "max_length": max_length}
    with progress.bar("sampling texts", spec.rounds + 2) as advance:
        progress_state = _load(work, plan)
        if progress_state is None:
            word_answers = log_probabilities([words[index : index + 1] for index in range(len(words))])
            advance()
            selected = choose_words(min(spec.words, len(words)), word_answers)
            class_words = class_word_probabilities(word_answers[selected], zipf(len(selected)))
            search = _Search(words[selected], class_words, lengths, seed)
            texts = search.initial_texts(spec.examples)
            answers = log_probabilities(texts)
            progress_state = _RoundState(0, texts, answers, answers.argmax(axis=1), search.words, class_words)
            _save(work, plan, progress_state)
        else:
            search = _Search(progress_state.words, progress_state.likely, lengths, seed)
            advance()
        advance(1 + progress_state.round)
        while progress_state.round < spec.rounds:
            texts, answers = search.improve(
                progress_state.round, progress_state.texts, progress_state.answers, log_probabilities
            )
            progress_state = replace(
                progress_state, round=progress_state.round + 1, texts=texts, answers=answers
            )
            _save(work, plan, progress_state)
            advance()
    num_classes = progress_state.answers.shape[1]
    return SampledTexts(
        [frame.wrap(text) for text in progress_state.texts],
        progress_state.words,
        class_counts=np.bincount(progress_state.answers.argmax(axis=1), minlength=num_classes),
        initial_class_counts=np.bincount(progress_state.first, minlength=num_classes),
    )


@dataclass(frozen=True)
class _Search:
    """Drawing and mutation of texts; `class_probabilities` are the word probabilities of each class, (classes,
    words)."""

    words: Ids
    class_probabilities: Probabilities
    lengths: tuple[int, int]
    seed: int

    @property
    def prior(self) -> Probabilities:
        """Word probabilities independent of a class, (words,)."""
        return zipf(len(self.words))

    def initial_texts(self, count: int) -> list[Ids]:
        """Draw the initial texts, cycling through the classes."""
        random = np.random.default_rng([self.seed, 0])
        prior_texts = draw_texts(self.words, self.prior, self.lengths, count, random)
        typical = self.class_texts(self.target_classes(count), random)
        shares = random.random(count)
        return [
            mix_tokens(a, b, share, random) for a, b, share in zip(prior_texts, typical, shares, strict=True)
        ]

    def class_texts(self, classes: NDArray[np.int64], random: np.random.Generator) -> list[Ids]:
        """Draw for each of the given classes a text of words typical of it."""
        texts: list[Ids] = [self.words[:0]] * len(classes)
        for label in np.unique(classes):
            indices = np.flatnonzero(classes == label)
            sampled = draw_texts(
                self.words, self.class_probabilities[label], self.lengths, len(indices), random
            )
            for index, text in zip(indices.tolist(), sampled, strict=True):
                texts[index] = text
        return texts

    def target_classes(self, count: int) -> NDArray[np.int64]:
        """Return the class that each text is drawn for."""
        return np.arange(count) % len(self.class_probabilities)

    def improve(
        self, round_index: int, texts: list[Ids], answers: NDArray[np.float32], predict: PredictLogits
    ) -> tuple[list[Ids], NDArray[np.float32]]:
        """Run one round; return the texts after it and the teacher's log-probabilities on them, (n, classes)."""
        random = np.random.default_rng([self.seed, 1 + round_index])
        classes = self.target_classes(len(texts))
        targets = np.log(np.random.default_rng([self.seed, 0, 0]).uniform(0.1, 1.0, len(texts)))
        current = answers[np.arange(len(texts)), classes]
        pending = np.flatnonzero(current < targets)
        if len(pending) == 0:
            return texts, answers
        typical = self.class_texts(classes[pending], random)
        prior_texts = draw_texts(self.words, self.prior, self.lengths, len(pending), random)
        mutated = [
            mutate_text(texts[index], source if random.random() < 0.5 else other, self.lengths, random)
            for index, source, other in zip(pending.tolist(), typical, prior_texts, strict=True)
        ]
        new_answers = predict(mutated)
        improved = new_answers[np.arange(len(pending)), classes[pending]] > current[pending]
        texts, answers = list(texts), answers.copy()
        for index, text in zip(pending[improved].tolist(), np.flatnonzero(improved).tolist(), strict=True):
            texts[index] = mutated[text]
        answers[pending[improved]] = new_answers[improved]
        return texts, answers


@dataclass(frozen=True)
class _RoundState:
    """State after a round; texts are without special tokens, `first` are the teacher's initial predictions."""

    round: int
    texts: list[Ids]
    answers: NDArray[np.float32]
    first: NDArray[np.int64]
    words: Ids
    likely: Probabilities


def _save(work: Path, plan: dict[str, object], progress_state: _RoundState) -> None:
    tensors = {
        "tokens": np.concatenate(progress_state.texts),
        "lengths": np.array([len(text) for text in progress_state.texts], dtype=np.int64),
        "answers": progress_state.answers,
        "first": progress_state.first,
        "words": progress_state.words,
        "likely": progress_state.likely,
    }
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    save_checkpoint(work, {"step": progress_state.round, "plan": plan}, state, None, None)


def _load(work: Path, plan: dict[str, object]) -> _RoundState | None:
    """Load the last round of the same sampling; None if there is none."""
    checkpoint = load_checkpoint(work)
    if checkpoint is None or checkpoint.values["plan"] != plan:
        return None
    state = {name: tensor.numpy() for name, tensor in checkpoint.state.items()}
    texts = np.split(state["tokens"], np.cumsum(state["lengths"])[:-1])
    arrays = {name: state[name] for name in ("answers", "first", "words", "likely")}
    return _RoundState(checkpoint.values["step"], texts, **arrays)
