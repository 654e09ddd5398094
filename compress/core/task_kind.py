"""What a kind of problem is, said to everything that is not its own folder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricKind:
    """A metric: what records call it, what readers call it, and how its values are written.

    `percent`: values are shares of 1, shown as percentages; else they are shown with three decimals. `test`: the paired
    test that tells two models apart, in words.
    `smaller_is_better`: as of an error or a perplexity; retention is then the baseline's value over the model's.
    """

    name: str
    words: str
    percent: bool = True
    test: str = ""
    smaller_is_better: bool = False

    def retention(self, value: float, baseline: float) -> float | None:
        """What is kept of the baseline: 1 where both are alike, below 1 where the value is worse; None over nothing."""
        above, below = (baseline, value) if self.smaller_is_better else (value, baseline)
        return above / below if below else None


@dataclass(frozen=True)
class TaskKind:
    """A kind of problem. What stands for code is named as `module:name` and imported when it is needed.

    `items`: what an example is, `text` or `image`. `head`: what of a torch model is read and trained: `classifier`,
    one output a label; `pooled`, a vector a text; `own`, whatever the model's own function gives. `data`: the
    module that reads the rows (`load`, `columns`). `task`: from the profile's `data` section to the `Task` that
    encodes and scores. `record`: from what a model answered to its scores with intervals and paired test.
    `metrics`: the primary one first. `label_loss`: the loss that trains on what the data says alone; None: only a
    teacher says what is right. `against_baseline`: whether the record of a model needs what the baseline answered to
    the same examples, and not its scores alone. `sections`: of the report, each from a run to a section.
    """

    name: str
    items: str
    head: str
    data: str
    task: str
    record: str
    metrics: tuple[MetricKind, ...]
    label_loss: str | None
    against_baseline: bool = False
    sections: tuple[str, ...] = ()

    @property
    def metric(self) -> MetricKind:
        """The primary one."""
        return self.metrics[0]


ACCURACY = MetricKind("accuracy", "accuracy", test="exact McNemar test")
MACRO_F1 = MetricKind("macro_f1", "macro F1")
LABEL_SECTIONS = (
    "compress.report.sections.classes:classes",
    "compress.report.sections.answers:answers",
    "compress.report.sections.answers:calibration",
)
"""What a report says of models that answer each example with a label."""
