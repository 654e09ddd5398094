"""Descriptors of task types: everything that code outside a task's own package needs to know about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from compress.core.units import MS_PER_S

if TYPE_CHECKING:
    from compress.core.records import Latency


@dataclass(frozen=True)
class MetricKind:
    """A metric: its name in records, its name for readers (`display_name`), and the format of its values.

    `percent`: values are fractions of 1, shown as percentages; else they are shown with three decimals. `test`: name of
    the paired test that compares two models. `smaller_is_better`: as for an error or a perplexity; retention is then
    the baseline's value over the model's. `meanings`: explanation of the values for readers, by the `against` of the
    record. `column`: title of its column beside the primary metric in runs that have it; if empty, it is shown only in
    the list of all metrics. `count_unit`: unit of the `n` in its records, such as `tokens`; if empty, examples.
    """

    name: str
    display_name: str
    percent: bool = True
    test: str = ""
    smaller_is_better: bool = False
    meanings: Mapping[str, str] = field(default_factory=dict, hash=False)
    column: str = ""
    count_unit: str = ""

    @property
    def relative(self) -> bool:
        """Whether changes are meaningful only relative to the value, as for a perplexity but not a share or a
        correlation."""
        return self.smaller_is_better and not self.percent

    @property
    def loss_unit(self) -> str:
        """Unit of one hundredth of `degradation`."""
        return "%" if self.relative else "points"

    def rank(self, value: float) -> float:
        """Convert a value to a rank, for which larger is better, or a rank back to its value."""
        return -value if self.smaller_is_better else value

    def degradation(self, before: float, after: float) -> float:
        """Return how much worse the rank `after` is than `before`; negative if it is better.

        This is the difference of the two; for a `relative` metric it is divided by the larger absolute value of the
        two, so that a loss equals 1 - `retention`.
        """
        if not self.relative:
            return before - after
        small, large = sorted((abs(before), abs(after)))
        return 0.0 if small == large else math.copysign(1 - small / large, before - after)

    def retention(self, value: float, baseline: float) -> float | None:
        """Return the share of the baseline's score that is kept: 1 if equal, below 1 if worse; None if undefined."""
        numerator, denominator = (baseline, value) if self.smaller_is_better else (value, baseline)
        return numerator / denominator if denominator else None


@dataclass(frozen=True)
class Quantity:
    """A task-specific performance measure that is derived from a timing.

    `name`: its name in records, budgets and columns; `display_name`: its name for readers. `workload`: the timings that
    have it, by their `lengths` or the part before the colon, as `read` of `read:128`; if empty, all. `statistic`: the
    median or 95th percentile of the time per batch, or the examples or tokens per second at the median. `column`: short
    title for narrow tables; if empty, it is not shown there.
    """

    name: str
    display_name: str
    unit: str
    workload: str
    statistic: Literal["p50_ms", "p95_ms", "examples_per_s", "tokens_per_s"]
    column: str = ""

    @property
    def smaller_is_better(self) -> bool:
        """Whether smaller is better: true for times, false for throughputs."""
        return self.statistic.endswith("_ms")

    def matching(self, timings: Iterable[Latency]) -> list[Latency]:
        """Return the timings that have this quantity."""
        return [
            timing
            for timing in timings
            if self.workload in ("", timing.lengths, timing.lengths.partition(":")[0])
        ]

    def first_value(self, timings: Iterable[Latency]) -> float | None:
        """Return the value at the first batch size and length; None if it was not timed."""
        return next(map(self.value_of, self.matching(timings)), None)

    def value_of(self, timing: Latency, ms: float | None = None) -> float:
        """Return the value for a timing; `ms` replaces the time per batch, for example by the end of an interval."""
        if ms is None:
            ms = timing.p95_ms if self.statistic == "p95_ms" else timing.p50_ms
        if self.smaller_is_better:
            return ms
        units_per_example = timing.mean_tokens if self.statistic == "tokens_per_s" else 1.0
        return MS_PER_S * timing.batch_size * units_per_example / ms


@dataclass(frozen=True)
class TaskHints:
    """Observed properties of a model and data, for guessing the task: the examples are images, are pairs with a score,
    have labels; the model embeds sentences, generates texts."""

    images: bool
    pairs: bool
    labels: bool
    embeds: bool
    generates: bool = False


@dataclass(frozen=True)
class TaskKind:
    """A task type. References to code are `module:name` strings that are imported when needed."""

    name: str
    """Name of the task in profiles, records and a model's `task.json`."""
    items: str
    """Type of the examples: `text` or `image`."""
    head: str
    """Output of the torch model: `classifier`, one logit per label; `pooled`, one vector per text; `own`, unchanged."""
    source: str
    """Function of a `StepContext` and a `TeacherSpec` that writes the torch form of a model and its `task.json`, or
    rejects the model; returns the facts of the model."""
    data: str
    """Module that reads the rows: `load` and `columns`."""
    task: str
    """Factory of the `Task`, which encodes examples and scores outputs, from the profile's `data` section."""
    record: str
    """Function that computes the scores of a `Scored`, with intervals and the paired test against the baseline."""
    metrics: tuple[MetricKind, ...]
    """Metrics, the primary one first."""
    label_loss: str | None
    """Name, in the table of losses, of the loss that needs only the data; None if training needs a teacher."""
    bundle: str
    """The `BundleCode` of the task: how a bundle predicts and how its predictions are verified."""
    starter: str
    """The `Outline` of the profile that `compress init` writes for the task."""
    fit_score: Callable[[TaskHints], int] = lambda seen: 1
    """Score of how well a model and data fit the task; `compress init` chooses the task with the largest."""
    logits: bool = False
    """Whether outputs are logits along their last axis, so that predictions can be compared."""
    prompts_for: str | None = None
    """Function of a `Task`, examples, a model folder and a seed that returns the prompts to generate answers to, an
    `GenerationPrompts`, or None; None for tasks whose models do not generate text."""
    harness_scores: str | None = None
    """Function that scores a model in tasks of an evaluation harness: from a `Task`, a model folder, the store of the
    model's outputs there, a text generator, and the profile's folder to `TaskScore`s; None without such tasks."""
    against_baseline: bool = False
    """Whether recording a model's scores needs the baseline's outputs on the same examples, not just its scores."""
    generates: bool = False
    """Whether its models are autoregressive decoders, which generate text."""
    keys: str = "compress.profile.schema:DataSpec"
    """Class of the profile's `data` section: `DataSpec` or a subclass that adds keys."""
    workloads: str = "compress.measuring.timing.feeds:scenarios"
    """Function that builds the workloads for timing from the sampled examples."""
    memory_workloads: str = "compress.measuring.timing.feeds:scenarios"
    """Function that builds the workloads for measuring memory; the first one, at the first batch size, is run."""
    positions: Callable[[Sequence[int]], int] = lambda lengths: max(lengths, default=0)
    """Number of tokens that a model must accept at once to be measured at the fixed lengths of a target."""
    judges_all: bool = False
    """Whether budgets and checks judge the worst of all workloads rather than the first one only."""
    quantities: tuple[Quantity, ...] = ()
    """Performance measures derived from the timings, for budgets, columns and plots. Plots show scores against the
    first one that is not a percentile, instead of the median latency."""
    uses: Mapping[str, str] = field(default_factory=dict)
    """Optional profile keys that this task supports, each with a verb phrase for what it does with the key."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Profile keys that this task rejects, each with the reason: `data.labels`, a key of a pass such as
    `passes.distill.augment`, or a whole pass such as `passes.prune`."""
    sections: tuple[str, ...] = ()
    """Functions that build task-specific report sections from a run."""

    def longest_timed(self, max_positions: int) -> int:
        """Return the largest sequence length that a model with `max_positions` can be timed at; below 1: none."""
        return max_positions - self.positions((1,)) + 1

    def default_positions(self, max_length: int) -> int:
        """Return the default number of positions of a model created here: enough for the longest text of the data and
        for the default lengths of measuring."""
        return max(max_length, self.positions(()))

    @property
    def metric(self) -> MetricKind:
        """The primary metric."""
        return self.metrics[0]


ACCURACY = MetricKind("accuracy", "accuracy", test="exact McNemar test")
MACRO_F1 = MetricKind("macro_f1", "macro F1")
LABEL_SECTIONS = (
    "compress.reporting.sections.classes:classes",
    "compress.reporting.sections.answers:answers",
    "compress.reporting.sections.answers:calibration",
)
"""Report sections for models that predict one label for each example."""
