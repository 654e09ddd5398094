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
    Frame,
    Ids,
    Probabilities,
    change,
    choose_words,
    draw_texts,
    mix,
    words_of_classes,
    zipf,
)

Answer = Callable[[Sequence[Ids]], NDArray[np.float32]]
"""Function from texts, special tokens included, to the teacher's logits (n, classes)."""


@dataclass(frozen=True)
class SampledTexts:
    """Sampled texts and how the teacher classifies them.

    `ids`: int64 (length,) each, special tokens included. `words`: the ordinary tokens they are drawn from,
    int64; the student's vocabulary may be trimmed to them. `answers`: number of texts that the teacher puts
    into each class, int64 (classes,); `drawn`: the same before the first round; both None if no teacher was
    asked.
    """

    ids: list[Ids]
    words: Ids
    answers: NDArray[np.int64] | None
    drawn: NDArray[np.int64] | None


def sample_texts(
    words: Ids,
    frame: Frame,
    spec: DataFreeSpec,
    answer: Answer | None,
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
        answer: None if the outputs are not classes: the texts are then drawn by Zipf's law alone.
        max_length: maximum length of a text, special tokens included.
        work: checkpoint folder of these texts alone.
    """
    room = max_length - len(frame.around(words[:0]))
    lengths = min(spec.length[0], room), min(spec.length[1], room)
    if answer is None:
        words = words[choose_words(min(spec.words, len(words)), None)]
        random = np.random.default_rng([seed, 0])
        drawn = draw_texts(words, zipf(len(words)), lengths, spec.examples, random)
        return SampledTexts([frame.around(text) for text in drawn], words, None, None)

    def log_probabilities(texts: Sequence[Ids]) -> NDArray[np.float32]:
        answers: NDArray[np.float32] = log_softmax(answer([frame.around(text) for text in texts]), axis=1)
        return answers

    plan = {"spec": spec.model_dump(mode="json"), "seed": seed, "words": len(words), "max_length": max_length}
    with progress.bar("sampling texts", spec.rounds + 2) as advance:
        kept = _load(work, plan)
        if kept is None:
            alone = log_probabilities([words[place : place + 1] for place in range(len(words))])
            advance()
            chosen = choose_words(min(spec.words, len(words)), alone)
            likely = words_of_classes(alone[chosen], zipf(len(chosen)))
            search = _Search(words[chosen], likely, lengths, seed)
            texts = search.begin(spec.examples)
            answers = log_probabilities(texts)
            kept = _Kept(0, texts, answers, answers.argmax(axis=1), search.words, likely)
            _save(work, plan, kept)
        else:
            search = _Search(kept.words, kept.likely, lengths, seed)
            advance()
        advance(1 + kept.round)
        while kept.round < spec.rounds:
            texts, answers = search.improve(kept.round, kept.texts, kept.answers, log_probabilities)
            kept = replace(kept, round=kept.round + 1, texts=texts, answers=answers)
            _save(work, plan, kept)
            advance()
    count = kept.answers.shape[1]
    return SampledTexts(
        [frame.around(text) for text in kept.texts],
        kept.words,
        answers=np.bincount(kept.answers.argmax(axis=1), minlength=count),
        drawn=np.bincount(kept.first, minlength=count),
    )


@dataclass(frozen=True)
class _Search:
    """Drawing and mutation of texts; `likely` are the word probabilities of each class, (classes, words)."""

    words: Ids
    likely: Probabilities
    lengths: tuple[int, int]
    seed: int

    @property
    def prior(self) -> Probabilities:
        """Word probabilities independent of a class, (words,)."""
        return zipf(len(self.words))

    def begin(self, count: int) -> list[Ids]:
        """Draw the initial texts, cycling through the classes."""
        random = np.random.default_rng([self.seed, 0])
        plain = draw_texts(self.words, self.prior, self.lengths, count, random)
        telling = self.telling(self.classes(count), random)
        shares = random.random(count)
        return [mix(a, b, share, random) for a, b, share in zip(plain, telling, shares, strict=True)]

    def telling(self, classes: NDArray[np.int64], random: np.random.Generator) -> list[Ids]:
        """Draw for each of the given classes a text of words typical of it."""
        texts: list[Ids] = [self.words[:0]] * len(classes)
        for number in np.unique(classes):
            places = np.flatnonzero(classes == number)
            drawn = draw_texts(self.words, self.likely[number], self.lengths, len(places), random)
            for place, text in zip(places.tolist(), drawn, strict=True):
                texts[place] = text
        return texts

    def classes(self, count: int) -> NDArray[np.int64]:
        """Return the class that each text is drawn for."""
        return np.arange(count) % len(self.likely)

    def improve(
        self, number: int, texts: list[Ids], answers: NDArray[np.float32], ask: Answer
    ) -> tuple[list[Ids], NDArray[np.float32]]:
        """Run one round; return the texts after it and the teacher's log-probabilities on them, (n, classes)."""
        random = np.random.default_rng([self.seed, 1 + number])
        classes = self.classes(len(texts))
        goals = np.log(np.random.default_rng([self.seed, 0, 0]).uniform(0.1, 1.0, len(texts)))
        reached = answers[np.arange(len(texts)), classes]
        missing = np.flatnonzero(reached < goals)
        if len(missing) == 0:
            return texts, answers
        telling = self.telling(classes[missing], random)
        plain = draw_texts(self.words, self.prior, self.lengths, len(missing), random)
        changed = [
            change(texts[place], source if random.random() < 0.5 else other, self.lengths, random)
            for place, source, other in zip(missing.tolist(), telling, plain, strict=True)
        ]
        asked = ask(changed)
        better = asked[np.arange(len(missing)), classes[missing]] > reached[missing]
        texts, answers = list(texts), answers.copy()
        for place, text in zip(missing[better].tolist(), np.flatnonzero(better).tolist(), strict=True):
            texts[place] = changed[text]
        answers[missing[better]] = asked[better]
        return texts, answers


@dataclass(frozen=True)
class _Kept:
    """State after a round; texts are without special tokens, `first` are the teacher's initial predictions."""

    round: int
    texts: list[Ids]
    answers: NDArray[np.float32]
    first: NDArray[np.int64]
    words: Ids
    likely: Probabilities


def _save(work: Path, plan: dict[str, object], kept: _Kept) -> None:
    tensors = {
        "tokens": np.concatenate(kept.texts),
        "lengths": np.array([len(text) for text in kept.texts], dtype=np.int64),
        "answers": kept.answers,
        "first": kept.first,
        "words": kept.words,
        "likely": kept.likely,
    }
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    save_checkpoint(work, {"step": kept.round, "plan": plan}, state, None, None)


def _load(work: Path, plan: dict[str, object]) -> _Kept | None:
    """Load the last round of the same sampling; None if there is none."""
    checkpoint = load_checkpoint(work)
    if checkpoint is None or checkpoint.values["plan"] != plan:
        return None
    state = {name: tensor.numpy() for name, tensor in checkpoint.state.items()}
    texts = np.split(state["tokens"], np.cumsum(state["lengths"])[:-1])
    arrays = {name: state[name] for name in ("answers", "first", "words", "likely")}
    return _Kept(checkpoint.values["step"], texts, **arrays)
