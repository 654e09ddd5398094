"""The seam between one kind of problem and all else: how to encode examples and to score what a model answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ModelError
from compress.core.plugins import named
from compress.core.records import Accuracy, TaskScore
from compress.core.task_kind import MetricKind, TaskKind
from compress.data.splits import Examples, Item
from compress.encoding.inputs import Inputs
from compress.models.text.chat import Prompt
from compress.profile.schema import DataSpec
from compress.tasks.table import task_kind

Answers = Mapping[str, NDArray[Any]]
"""What is kept of a model's outputs: named arrays with a row an example."""


@dataclass(frozen=True)
class TrainingData:
    """What passes may see: training and validation examples, label names, unlabelled examples. Never the test split.

    `copied`: of texts, which of them stand for the most part in the validation or the test split. Only who makes up
    texts is told.
    """

    train: Examples
    validation: Examples
    labels: tuple[str, ...]
    unlabeled: Examples | None = None
    copied: Callable[[Sequence[str]], Sequence[bool]] | None = None

    @property
    def shown(self) -> tuple[Examples, ...]:
        """What a model is trained on: the training examples, and those without labels where there are any."""
        return (self.train,) if self.unlabeled is None else (self.train, self.unlabeled)


@dataclass(frozen=True)
class Truth:
    """What outputs are scored against.

    `labels`: int64 (n,). `scores`: float32 (n // 2,), given similarities of pairs. `reference`: float32 (n, d), the
    teacher's outputs on the same examples, where the task compares with those.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float32] | None = None
    reference: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, examples: Examples, reference: NDArray[np.float32] | None = None) -> Truth:
        """The truth of examples."""
        return cls(examples.labels, examples.scores, reference)

    def take(self, indices: NDArray[np.int64]) -> Truth:
        """The truth of some of the examples, for truths without pairs.

        Raises:
            ValueError: the examples are pairs.
        """
        if self.scores is not None:
            raise ValueError("pairs cannot be split")
        return Truth(self.labels[indices], None, None if self.reference is None else self.reference[indices])


@dataclass(frozen=True)
class Score:
    """The primary metric's value on a split."""

    metric: MetricKind
    value: float

    @property
    def rank(self) -> float:
        """What passes compare: larger is better. Minus the value of a metric of which less is better."""
        return self.metric.rank(self.value)


class Task(Protocol):
    """One kind of problem on one set of data."""

    @property
    def kind(self) -> TaskKind:
        """What the kind of problem is."""

    @property
    def data(self) -> DataSpec:
        """What the profile says of the data."""

    @property
    def scorer(self) -> Any:
        """What reduces outputs to answers: a module of numpy alone, which is sent to where a model runs.

        Its `answers(outputs, batch, settings)` takes the outputs (n, ...) of a batch, the inputs that they are of and
        `settings`, and gives named arrays (n, ...) of a few bytes an example; a ValueError where the outputs are of a
        shape that has no answers.
        """

    def encode(self, examples: Examples, model: Path) -> Inputs:
        """Encode examples as the artifact directory `model` declares it (tokenizer, image size); needs no torch."""

    def scored(self, examples: Examples) -> Examples:
        """Those of the examples that there is a truth of."""

    def needs_reference(self, examples: Examples) -> bool:
        """Whether `score` of these examples compares with the teacher's outputs."""

    def settings(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """What the scorer is told of a model, as plain JSON values, by its `task.json`."""

    def check_outputs(self, shape: tuple[int, ...], described: Mapping[str, Any], where: str) -> None:
        """Refuse a model whose outputs (n, ...) have another shape than the task reads.

        Raises:
            ModelError: with the code `wrong-outputs`.
        """

    def score(self, answers: Answers, truth: Truth) -> Score:
        """The primary metric of what a model answered; which way is better says its kind."""

    def divergence(self, reference: NDArray[np.float32], outputs: NDArray[np.float32]) -> float:
        """How far outputs (n, ...) are from those that they stand for: 0 where they are equal, larger is worse. Both
        are 0 after the end of an example."""


class WritingTask(Task, Protocol):
    """A task whose models write: its examples hold prompts with answers, which others can take the place of."""

    @property
    def answered(self) -> Task:
        """The task of the examples that `answered_item` makes."""

    @property
    def conversing(self) -> Task:
        """The task of those that it makes of conversations, whatever the data hold."""

    def question(self, item: Item, beginning: Callable[[str], str]) -> tuple[Prompt, str]:
        """Of an example what is answered, and the data's own answer.

        Args:
            beginning: of an example that holds none, the prompt that is made of it.
        """

    def prompt_of(self, text: str) -> Prompt:
        """A text as the prompt of an example: of conversations, what the user says first."""

    def asked_in(self, item: Item) -> Sequence[str]:
        """The texts of an example that no prompt may be a copy of, where it is none to learn from."""

    def answered_item(self, prompt: Prompt, answer: str, *, ends: bool) -> str:
        """An example of `answered`: the answer alone is learnt, and where it `ends`, that it ends there."""


@dataclass(frozen=True)
class Asked:
    """What a model is asked to answer in words, greedily.

    `inputs`: its prompts as token ids. `settings`: of `decoding.answers`. `examples`: the places of the prompts in the
    split; `prompts`, `expected`: the texts. `text`: from the tokens of an answer to what they say.
    """

    inputs: Inputs
    settings: dict[str, Any]
    examples: tuple[int, ...]
    prompts: tuple[str, ...]
    expected: tuple[str, ...]
    text: Callable[[list[int]], str]


@dataclass(frozen=True)
class Scored:
    """What a model answered to the test split, for the record of its scores.

    `baseline`: its scores on the same examples; None: this is the baseline. `reference`: what it answered to them,
    where the kind of problem asks for it. `seed`: of the bootstrap. `digest`: what tells these examples from others.
    `asked` and `written`: what it was asked to answer in words, and the tokens of that, int32 (prompts, most), -1 after
    the end. `base` and `allow_code`: where code of the user lies that judges it, and whether it may run. `tasks`: what
    it reached in further tasks.
    """

    task: Task
    answers: Answers
    examples: Examples
    baseline: Accuracy | None
    reference: Answers | None
    batch_size: int
    seed: int
    digest: str
    unknown_token_share: float | None = None
    asked: Asked | None = None
    written: NDArray[np.int32] | None = None
    base: Path = Path()
    allow_code: bool = False
    tasks: tuple[TaskScore, ...] = ()


def task_of(name: str, data: DataSpec) -> Task:
    """The task that a profile names."""
    made = cast(Callable[[DataSpec], Task], named(task_kind(name).task))
    return made(data)


def answers_of(task: Task, outputs: NDArray[Any], batch: Mapping[str, Any] | None = None) -> Answers:
    """What the task keeps of outputs (n, ...) that are held here.

    Raises:
        ValueError: they are of a shape that has no answers.
    """
    found: Answers = task.scorer.answers(outputs, dict(batch or {}), {})
    return found


def score_of(task: Task, outputs: NDArray[Any], truth: Truth) -> Score:
    """The primary metric of outputs (n, ...) that are held here."""
    return task.score(answers_of(task, outputs), truth)


def not_finite() -> ModelError:
    """The error of outputs that are no numbers."""
    return ModelError("the model's outputs are not finite numbers", hint="Did its training diverge?")


def wrong_shape(shape: tuple[int, ...], expected: str, where: str) -> ModelError:
    """The error of outputs of a shape that the task does not read."""
    return ModelError(
        f"the model's outputs have shape {shape}; expected {expected} numbers per example",
        where=where,
        code="wrong-outputs",
    )
