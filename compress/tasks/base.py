"""Interface between a kind of task and the rest: how to encode examples and how to score a model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ModelError
from compress.core.plugins import import_object
from compress.core.records import Accuracy, TaskScore
from compress.core.task_kind import MetricKind, TaskKind
from compress.data.splits import Examples, Item
from compress.encoding.inputs import Inputs
from compress.models.text.chat import Prompt
from compress.profile.schema import DataSpec
from compress.tasks.table import task_kind

Answers = Mapping[str, NDArray[Any]]
"""What is kept of a model's outputs: named arrays with one row per example."""


@dataclass(frozen=True)
class TrainingData:
    """Data available to passes: training, validation and unlabeled examples, and label names. Never the test split.

    `is_heldout_copy`: for texts, returns which of them are near-duplicates of validation or test texts; only for passes
    that generate training texts.
    """

    train: Examples
    validation: Examples
    labels: tuple[str, ...]
    unlabeled: Examples | None = None
    is_heldout_copy: Callable[[Sequence[str]], Sequence[bool]] | None = None

    @property
    def training_sets(self) -> tuple[Examples, ...]:
        """Examples that a model is trained on: the training examples, and unlabeled ones if there are any."""
        return (self.train,) if self.unlabeled is None else (self.train, self.unlabeled)


@dataclass(frozen=True)
class Truth:
    """Ground truth that outputs are scored against.

    `labels`: int64 (n,). `scores`: float32 (n // 2,), given similarities of pairs. `reference`: float32 (n, d), the
    teacher's outputs on the same examples, if the task compares with those.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float32] | None = None
    reference: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, examples: Examples, reference: NDArray[np.float32] | None = None) -> Truth:
        """Return the ground truth of examples."""
        return cls(examples.labels, examples.scores, reference)

    def take(self, indices: NDArray[np.int64]) -> Truth:
        """Return the ground truth of some of the examples, unless they are pairs.

        Raises:
            ValueError: the examples are pairs.
        """
        if self.scores is not None:
            raise ValueError("pairs cannot be split")
        return Truth(self.labels[indices], None, None if self.reference is None else self.reference[indices])


@dataclass(frozen=True)
class Score:
    """Value of the primary metric on a split."""

    metric: MetricKind
    value: float

    @property
    def rank(self) -> float:
        """Value for comparisons, larger is better: negated if lower values of the metric are better."""
        return self.metric.rank(self.value)


class Task(Protocol):
    """A kind of problem applied to a data set."""

    @property
    def kind(self) -> TaskKind:
        """Kind of the task."""

    @property
    def data(self) -> DataSpec:
        """Data section of the profile."""

    @property
    def scorer(self) -> Any:
        """Module that reduces outputs to answers; depends on numpy only, and is sent to where a model runs.

        Its `answers(outputs, batch, settings)` takes the outputs (n, ...) of a batch, the batch's inputs and
        `settings`, and returns named arrays (n, ...) of a few bytes per example. It raises ValueError for outputs of an
        unsupported shape.
        """

    def encode(self, examples: Examples, model: Path) -> Inputs:
        """Encode examples as the artifact directory `model` declares it (tokenizer, image size); needs no torch."""

    def scorable(self, examples: Examples) -> Examples:
        """Return the examples that have a ground truth."""

    def needs_reference(self, examples: Examples) -> bool:
        """Whether `score` compares these examples with the teacher's outputs."""

    def settings(self, task_json: Mapping[str, Any]) -> dict[str, Any]:
        """Return the scorer's settings for a model, as plain JSON values, from its `task.json`."""

    def check_outputs(self, shape: tuple[int, ...], task_json: Mapping[str, Any], where: str) -> None:
        """Reject a model whose outputs (n, ...) do not have the shape that the task expects.

        Raises:
            ModelError: with the code `wrong-outputs`.
        """

    def score(self, answers: Answers, truth: Truth) -> Score:
        """Return the primary metric of a model's answers; `kind.metric` defines which direction is better."""

    def divergence(self, reference: NDArray[np.float32], outputs: NDArray[np.float32]) -> float:
        """Return the divergence of outputs (n, ...) from reference outputs: 0 if equal, larger is worse.

        Both are padded with 0 after the end of an example.
        """


class GenerativeTask(Task, Protocol):
    """Task of generative models: examples contain prompts with answers, which can be replaced."""

    @property
    def answered_task(self) -> Task:
        """Task of the examples made by `answered_item`."""

    @property
    def conversation_task(self) -> Task:
        """Task of such examples made from conversations, whatever the data format is."""

    def split_prompt(self, item: Item, shorten: Callable[[str], str]) -> tuple[Prompt, str]:
        """Return the prompt of an example, and the data's own answer.

        Args:
            shorten: derives a prompt from an example that has none.
        """

    def prompt_of(self, text: str) -> Prompt:
        """Return a text as a prompt; for conversations, as the first user message."""

    def questions_of(self, item: Item) -> Sequence[str]:
        """Return the texts of a held-out example that no prompt may copy."""

    def answered_item(self, prompt: Prompt, answer: str, *, ends: bool) -> str:
        """Make an example of `answered_task`: only the answer is trained on, and its end if it `ends`."""


@dataclass(frozen=True)
class GenerationPrompts:
    """Prompts to be answered by greedy generation.

    `inputs`: the prompts as token ids. `settings`: of `decoding.answers`. `examples`: indices of the prompts in the
    split; `prompts`, `expected`: the texts. `decode`: decodes the tokens of an answer.
    """

    inputs: Inputs
    settings: dict[str, Any]
    examples: tuple[int, ...]
    prompts: tuple[str, ...]
    expected: tuple[str, ...]
    decode: Callable[[list[int]], str]


@dataclass(frozen=True)
class Scored:
    """Answers of a model to the test split, for the record of its scores.

    `baseline`: the baseline's scores on the same examples; None: this is the baseline. `reference`: the baseline's
    answers to them, if the kind of task needs them. `seed`: of the bootstrap. `digest`: identifies the examples.
    `generation_prompts` and `generated_tokens`: prompts for generation, and the generated tokens, int32 (prompts,
    most), -1 after the end. `base` and `allow_code`: folder of user code that judges it, and whether it may run.
    `tasks`: scores on further tasks.
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
    generation_prompts: GenerationPrompts | None = None
    generated_tokens: NDArray[np.int32] | None = None
    base: Path = Path()
    allow_code: bool = False
    tasks: tuple[TaskScore, ...] = ()


def task_of(name: str, data: DataSpec) -> Task:
    """Return the task that a profile names."""
    create = cast(Callable[[DataSpec], Task], import_object(task_kind(name).task))
    return create(data)


def answers_of(task: Task, outputs: NDArray[Any], batch: Mapping[str, Any] | None = None) -> Answers:
    """Return the task's answers for outputs (n, ...) in memory.

    Raises:
        ValueError: the outputs have an unsupported shape.
    """
    reduced: Answers = task.scorer.answers(outputs, dict(batch or {}), {})
    return reduced


def score_of(task: Task, outputs: NDArray[Any], truth: Truth) -> Score:
    """Return the primary metric of outputs (n, ...) in memory."""
    return task.score(answers_of(task, outputs), truth)


def not_finite() -> ModelError:
    """Return the error for outputs that are not finite."""
    return ModelError("the model's outputs are not finite numbers", hint="Did its training diverge?")


def wrong_shape(shape: tuple[int, ...], expected: str, where: str) -> ModelError:
    """Return the error for outputs of a shape that the task does not expect."""
    return ModelError(
        f"the model's outputs have shape {shape}; expected {expected} numbers per example",
        where=where,
        code="wrong-outputs",
    )
