"""What a kind of problem is, said to everything that is not its own folder."""

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
    """A metric: what records call it, what readers call it, and how its values are written.

    `percent`: values are shares of 1, shown as percentages; else they are shown with three decimals. `test`: the paired
    test that tells two models apart, in words.
    `smaller_is_better`: as of an error or a perplexity; retention is then the baseline's value over the model's.
    `meanings`: what its values mean, for readers, by what records hold them `against`. `column`: the title under which
    it stands beside the primary metric wherever a run has it; empty: among all metrics alone. `counts`: what the `n` of
    its records counts, as `tokens`; empty: examples.
    """

    name: str
    words: str
    percent: bool = True
    test: str = ""
    smaller_is_better: bool = False
    meanings: Mapping[str, str] = field(default_factory=dict, hash=False)
    column: str = ""
    counts: str = ""

    @property
    def relative(self) -> bool:
        """Whether a change of it means something beside its size alone: of a perplexity, and not of a share or of a
        correlation."""
        return self.smaller_is_better and not self.percent

    @property
    def loss_unit(self) -> str:
        """What a hundredth of `lost` is called."""
        return "%" if self.relative else "points"

    def rank(self, value: float) -> float:
        """A value as passes compare and note it, larger is better; and the value of such a rank."""
        return -value if self.smaller_is_better else value

    def lost(self, before: float, after: float) -> float:
        """How much worse a rank is than one before, below 0 where it is better: their difference, and where that says
        nothing without their size, its share of the worse one, so that it is what is missing from `retention` to 1."""
        if not self.relative:
            return before - after
        small, large = sorted((abs(before), abs(after)))
        return 0.0 if small == large else math.copysign(1 - small / large, before - after)

    def retention(self, value: float, baseline: float) -> float | None:
        """What is kept of the baseline: 1 where both are alike, below 1 where the value is worse; None over nothing."""
        above, below = (baseline, value) if self.smaller_is_better else (value, baseline)
        return above / below if below else None


@dataclass(frozen=True)
class Quantity:
    """What a task's models are measured by beside what all are: a number that is read off a timing.

    `name`: what records, budgets and columns call it; `words`: what readers do. `workload`: which timings have it, by
    their `lengths` or by what stands there before the colon, as `read` of `read:128`; empty: all. `statistic`: the
    median or 95th percentile of the time of a batch, or how many examples or tokens that median makes a second.
    `column`: its title where there is little room; empty: it is not shown there.
    """

    name: str
    words: str
    unit: str
    workload: str
    statistic: Literal["p50_ms", "p95_ms", "examples_per_s", "tokens_per_s"]
    column: str = ""

    @property
    def smaller_is_better(self) -> bool:
        """As of a time; of more a second there cannot be enough."""
        return self.statistic.endswith("_ms")

    def among(self, timings: Iterable[Latency]) -> list[Latency]:
        """The timings that it is read off."""
        return [one for one in timings if self.workload in ("", one.lengths, one.lengths.partition(":")[0])]

    def first(self, timings: Iterable[Latency]) -> float | None:
        """Its value at the first batch size and length; None where it was not timed."""
        return next(map(self.of, self.among(timings)), None)

    def of(self, timing: Latency, ms: float | None = None) -> float:
        """Its value; `ms`: where the time of a batch were another one, as an end of an interval."""
        if ms is None:
            ms = timing.p95_ms if self.statistic == "p95_ms" else timing.p50_ms
        if self.smaller_is_better:
            return ms
        each = timing.mean_tokens if self.statistic == "tokens_per_s" else 1.0
        return MS_PER_S * timing.batch_size * each / ms


@dataclass(frozen=True)
class Seen:
    """What a model and data look like, for telling what they are for: whether the examples are images, whether they are
    pairs with a score, whether they have labels, whether the model embeds sentences, and whether it writes texts."""

    images: bool
    pairs: bool
    labels: bool
    embeds: bool
    writes: bool = False


@dataclass(frozen=True)
class TaskKind:
    """A kind of problem. What stands for code is named as `module:name`, and imported when it is needed."""

    name: str
    """What profiles, records and a model's `task.json` call it."""
    items: str
    """What an example is: `text` or `image`."""
    head: str
    """What of a torch model is read: `classifier`, one output a label; `pooled`, a vector a text; `own`, as it is."""
    source: str
    """From the `StepContext` of a `TeacherSpec`, and that, to the facts of a model: it writes its torch form and its
    `task.json`, or refuses it."""
    data: str
    """The module that reads the rows: `load` and `columns`."""
    task: str
    """From the profile's `data` section to the `Task` that encodes examples and scores answers."""
    record: str
    """From a `Scored` to its scores, with intervals and the paired test against the baseline."""
    metrics: tuple[MetricKind, ...]
    """The primary one first."""
    label_loss: str | None
    """The loss that trains on what the data says alone, by its name in the table of losses; None: only a teacher says
    what is right."""
    bundle: str
    """What a bundle predicts with, and what it is proved by."""
    starter: str
    """What `compress init` writes of it."""
    likely: Callable[[Seen], int] = lambda seen: 1
    """How much a model and data look like it: `compress init` takes the largest."""
    logits: bool = False
    """Whether outputs are logits along their last axis, so that predictions can be compared."""
    asks: str | None = None
    """From a `Task`, examples, the folder of a model and a seed to what the model is asked to answer in words, an
    `Asked`, or to None; no place where its models write nothing."""
    scored_in: str | None = None
    """From a `Task`, the folder of a model, what keeps the task's answers to inputs there, what writes answers to
    prompts there, and the folder of a profile to scores in further tasks, `TaskScore`; None where there are none."""
    against_baseline: bool = False
    """Whether the record of a model needs what the baseline answered to the same examples, and not its scores alone."""
    writes: bool = False
    """Whether its models are decoders, which go on with texts."""
    keys: str = "compress.profile.schema:DataSpec"
    """The class of the profile's `data` section: `DataSpec`, or one that adds keys to it."""
    workloads: str = "compress.measuring.timing.feeds:scenarios"
    """What is timed of the drawn examples."""
    weighed: str = "compress.measuring.timing.feeds:scenarios"
    """What is run of them where memory is measured: the first of it, at the first batch size."""
    positions: Callable[[Sequence[int]], int] = lambda lengths: max(lengths, default=0)
    """How many tokens a model must take at once to be timed and weighed at the fixed lengths that a target names."""
    judges_all: bool = False
    """Whether budgets and checks judge all of that, the worst of each, and not the first alone."""
    quantities: tuple[Quantity, ...] = ()
    """What is read off those timings, for budgets, columns and plots. The first one that is no percentile is what plots
    set scores against, in place of the median latency."""
    uses: Mapping[str, str] = field(default_factory=dict)
    """Keys of a profile that not every task knows, with what this one does with them, as a verb."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Keys of a profile that mean nothing here, with the reason: `data.labels`, or of a pass `passes.distill.augment`,
    or a whole pass, `passes.prune`."""
    sections: tuple[str, ...] = ()
    """Of the report, each from a run to a section."""

    def positions_unset(self, max_length: int) -> int:
        """How many tokens a model takes that is made here, where nobody says it: the longest text of the data, and what
        is timed of it where a target names no lengths."""
        return max(max_length, self.positions(()))

    @property
    def metric(self) -> MetricKind:
        """The primary one."""
        return self.metrics[0]


ACCURACY = MetricKind("accuracy", "accuracy", test="exact McNemar test")
MACRO_F1 = MetricKind("macro_f1", "macro F1")
LABEL_SECTIONS = (
    "compress.reporting.sections.classes:classes",
    "compress.reporting.sections.answers:answers",
    "compress.reporting.sections.answers:calibration",
)
"""What a report says of models that answer each example with a label."""
