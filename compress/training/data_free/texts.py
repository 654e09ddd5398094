"""Texts for a teacher to label where there are none: sampled from its vocabulary, then changed until its answers cover
all classes."""

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
"""The teacher's logits (n, classes) on texts, special tokens included, in their order."""


@dataclass(frozen=True)
class SampledTexts:
    """Texts and how the teacher took them.

    `ids`: int64 (length,) each, special tokens included. `words`: the tokens they are made of beside those, int64; the
    student's vocabulary may be trimmed to them. `answers`: how many of them the teacher puts into each class,
    int64 (classes,); `drawn`: the same before the first round; both None where nobody was asked.
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
    """`spec.examples` texts that a teacher can label; no text is read, and no frequency of one.

    They are made of `spec.words` words: the most frequent ones, and those that the teacher is surest of. Each text is
    drawn for a class: a random share of its words from those that the teacher, asked about every word alone,
    holds likely for the class (Bayes' rule), the others by Zipf's law. A text has also a goal: how probable the teacher
    must hold its class, drawn uniformly, so that clear and doubtful texts are both among them. In each of
    `spec.rounds` rounds the texts that miss their goal are changed at random, and a change that brings a text nearer
    to its class is kept: a hill climb that needs the teacher's answers alone.

    That a model can be copied by its answers on nonsense: Krishna et al., Thieves on Sesame Street, 2020
    (arXiv:1910.12366), who draw the words from real frequencies. A search by changes of tokens: Ma et al., Adversarial
    Self-Supervised Data-Free Distillation, 2020 (arXiv:2010.04883), who use gradients.

    Equal arguments give equal texts, also after a kill: each round is kept in `work`.

    Args:
        words: `spoken_words` of the teacher's vocabulary.
        frame: the special tokens of a text.
        spec: `length` counts tokens without special ones.
        answer: None where the outputs are no classes: the texts are then drawn by Zipf's law alone.
        max_length: no text is longer, special tokens included.
        work: folder for the rounds of these texts alone.
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
    """How texts are drawn and changed; `likely` are the words of each class, (classes, words)."""

    words: Ids
    likely: Probabilities
    lengths: tuple[int, int]
    seed: int

    @property
    def prior(self) -> Probabilities:
        """How often each word is drawn for no class, (words,)."""
        return zipf(len(self.words))

    def begin(self, count: int) -> list[Ids]:
        """The first texts, class after class in turn."""
        random = np.random.default_rng([self.seed, 0])
        plain = draw_texts(self.words, self.prior, self.lengths, count, random)
        telling = self.telling(self.classes(count), random)
        shares = random.random(count)
        return [mix(a, b, share, random) for a, b, share in zip(plain, telling, shares, strict=True)]

    def telling(self, classes: NDArray[np.int64], random: np.random.Generator) -> list[Ids]:
        """For each class given, a text of its words alone."""
        texts: list[Ids] = [self.words[:0]] * len(classes)
        for number in np.unique(classes):
            places = np.flatnonzero(classes == number)
            drawn = draw_texts(self.words, self.likely[number], self.lengths, len(places), random)
            for place, text in zip(places.tolist(), drawn, strict=True):
                texts[place] = text
        return texts

    def classes(self, count: int) -> NDArray[np.int64]:
        """The class that each text is drawn for."""
        return np.arange(count) % len(self.likely)

    def improve(
        self, number: int, texts: list[Ids], answers: NDArray[np.float32], ask: Answer
    ) -> tuple[list[Ids], NDArray[np.float32]]:
        """One round: the texts after it and the teacher's log probabilities on them, (n, classes)."""
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
    """What a round leaves: the texts without special tokens, the teacher's log probabilities, its first classes."""

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
    """The last round of these very texts; None where there is none."""
    checkpoint = load_checkpoint(work)
    if checkpoint is None or checkpoint.values["plan"] != plan:
        return None
    state = {name: tensor.numpy() for name, tensor in checkpoint.state.items()}
    texts = np.split(state["tokens"], np.cumsum(state["lengths"])[:-1])
    arrays = {name: state[name] for name in ("answers", "first", "words", "likely")}
    return _Kept(checkpoint.values["step"], texts, **arrays)
