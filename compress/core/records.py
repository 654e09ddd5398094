"""Records of a run as plain data that round-trips through JSON: measurements, steps and the run itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Role = Literal["baseline", "step", "control", "variant"]
StepStatus = Literal["ok", "cached", "failed"]
RunStatus = Literal["running", "ok", "budget_missed", "not_judged", "failed", "interrupted"]
"""`not_judged`: complete, no limit was missed, but at least one could not be judged."""
COMPLETE_STATUSES = ("ok", "budget_missed", "not_judged")
"""Statuses of a run that deploys a model."""
Verdict = Literal["better", "worse", "no difference"]


class Record(BaseModel):
    """Frozen plain data that round-trips through JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Metric(Record):
    """One metric with its 95 % confidence interval. Shares are fractions, not percentages."""

    name: str
    value: float
    low: float
    high: float
    n: int
    smaller_is_better: bool = False


class GeneratedAnswers(Record):
    """Answers that a model generated to prompts of the split, and which of them are correct.

    `examples`: indices of the prompts in the split; `prompts`, `expected`, `answers`: the texts, truncated if long, and
    empty if the report shows no texts. `p_value` and `verdict` are from the exact McNemar test against the baseline's
    answers.
    """

    validator: str
    examples: tuple[int, ...]
    right: tuple[bool, ...]
    p_value: float | None = None
    verdict: Verdict | None = None
    prompts: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


class TaskScore(Record):
    """Score of a model in one task of an evaluation harness; `harness` includes the version.

    `metrics`: shares of the documents; `right`: whether each document is correct by the first metric; `documents`: the
    sha256 of the requests. `p_value` and `verdict` are from the exact McNemar test against the baseline.
    """

    task: str
    version: str
    harness: str
    shots: int
    documents: str
    metrics: tuple[Metric, ...]
    right: tuple[bool, ...]
    p_value: float | None = None
    verdict: Verdict | None = None


class Accuracy(Record):
    """Scores on one split; `metrics[0]` is the primary metric of the task.

    `p_value` and `verdict` come from the exact McNemar test against the baseline's predictions on the same
    examples; both are None for the baseline itself. `predictions` and `truth` are label indices, one per example.

    `against` names the reference. Embeddings have no predictions or truth: they are scored against given `scores` of
    pairs, with a paired bootstrap test over the pairs, or against the similarities of the `baseline`, without a test:
    the verdict then says whether the confidence interval of the correlation stays below 1. With `examples`, the
    examples contain the expected output themselves; there is no truth either, and the test is that of the metric.

    `retention_low` and `retention_high` are set if they cannot be computed from the predictions. `examples` is the
    sha256 of the scored examples without labels (missing in older records of classifiers). `confidence` is the
    probability of each prediction, rounded to four decimals (missing in older records). `written`: generated answers,
    if the model was asked for them; `tasks`: scores in tasks of an evaluation harness, if any.
    """

    split: str
    batch_size: int
    metrics: tuple[Metric, ...]
    retention: float | None
    p_value: float | None
    verdict: Verdict | None
    predictions: tuple[int, ...]
    truth: tuple[int, ...]
    unknown_token_share: float | None = None
    against: Literal["labels", "scores", "baseline", "examples"] = "labels"
    retention_low: float | None = None
    retention_high: float | None = None
    examples: str | None = None
    confidence: tuple[float, ...] = ()
    written: GeneratedAnswers | None = None
    tasks: tuple[TaskScore, ...] = ()


class Disturbance(Record):
    """Interference by other processes while a pair of models was timed.

    `disturbed`: in too many rounds threads had to wait for a core, even after those rounds were repeated; None if
    unknown. `told_by`: source of the waiting times, `schedstat` (the kernel, per thread), `processor time` or
    `unknown`. `waited` and `baseline_waited`: waiting time summed over the threads, as a share of the time of the
    rounds of each model. `rounds`: number of timed rounds; `disturbed_rounds` of them are excluded, unless the row is
    disturbed. `pressure`: share of the time in which any thread of the machine waited for a core (Linux PSI);
    `stolen`: share of the core time taken by the hypervisor; `switches`: involuntary context switches of the process
    per round; each is None if not available. `patient_s`: seconds spent on repeated rounds.
    """

    disturbed: bool | None
    told_by: Literal["schedstat", "processor time", "unknown"]
    baseline_waited: float | None
    waited: float | None
    rounds: int
    disturbed_rounds: int | None
    pressure: float | None
    stolen: float | None
    switches: float | None
    patient_s: float


class Latency(Record):
    """Timings of a model in alternation with the baseline, at one batch size, without tokenization.

    Times are milliseconds per batch. `lengths` names the workload: `real` (examples of the data) or `fixed:128`.
    `speedup` = baseline p50 / p50 with its 95 % bootstrap interval; the baseline itself is timed against a second
    instance of the same file (A/A run), so its interval shows the noise. `throughput` is examples per second.
    `verdict` is None if the row is disturbed: its numbers then include all rounds and do not describe the model alone.
    `disturbance` is missing in older records.
    """

    batch_size: int
    lengths: str
    mean_tokens: float
    rounds: int
    p50_ms: float
    p50_low: float
    p50_high: float
    p95_ms: float
    baseline_p50_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float
    verdict: Literal["faster", "slower", "no difference"] | None
    throughput: float
    samples_ms: tuple[float, ...]
    baseline_samples_ms: tuple[float, ...]
    disturbance: Disturbance | None = None

    @property
    def disturbed(self) -> bool:
        """Whether the timing is known to be unusable because of other processes."""
        return self.disturbance is not None and self.disturbance.disturbed is True


class Memory(Record):
    """Memory of a process that imports only numpy and the runtime, in MB of 10^6 bytes.

    `peak_mb`: peak resident size (counter reset after the imports) minus the resident size before the model is
    loaded; `absolute_peak_mb`: the peak itself; `gpu_peak_mb`: None without a GPU; `method`: the counter that was read;
    `limit_mb`: the target's limit on the absolute peak, None without one. `lengths`: the workload, as in `Latency`;
    `read:128 write:32` is a prompt of 128 tokens and 32 generated ones.
    """

    peak_mb: float
    absolute_peak_mb: float
    before_load_mb: float
    gpu_peak_mb: float | None = None
    method: str = "VmHWM, reset after the imports"
    limit_mb: float | None = None
    lengths: str = "real"

    @property
    def over_limit(self) -> bool:
        """Whether the absolute peak exceeds the target's limit."""
        return self.limit_mb is not None and self.absolute_peak_mb > self.limit_mb


class TargetMeasurement(Record):
    """All measurements of one artifact on one target.

    `fingerprint` identifies the target with its batch sizes and lengths; `machine` omits what does not affect timings
    (missing in older records). `load_ms`: time to load the model with its file in the page cache, median over the
    processes that timed it (missing in older records).
    """

    key: str
    target: str
    fingerprint: str
    machine: str | None = None
    protocol: int
    accuracy: Accuracy
    latency: tuple[Latency, ...]
    memory: Memory
    tokenization_ms: float | None
    load_ms: float | None = None
    seconds: float

    @property
    def disturbed(self) -> bool:
        """Whether any of the timings is disturbed."""
        return any(one.disturbed for one in self.latency)


class CurvePoint(Record):
    """One evaluation during training."""

    step: int
    epoch: float
    train_loss: float
    validation_score: float | None


class Curve(Record):
    """Learning curve of a training run. `seconds` covers steps and evaluations, including those before a resume
    (missing in older records)."""

    name: str
    points: tuple[CurvePoint, ...]
    seconds: float | None = None


class Size(Record):
    """Sizes on disk in MB of 10^6 bytes: the model as the target runs it, its tokenizer, the whole directory."""

    model_mb: float
    tokenizer_mb: float
    total_mb: float


class Sample(Record):
    """Excerpt of a generated training text. From a teacher: the end of the prompt, the beginning of the answer and why
    it was kept or dropped; from the student itself: `why` says when it was generated. For documents the prompt is a
    question, and `passage` is the text that it was generated from."""

    by: Literal["teacher", "student"] = "teacher"
    why: str
    prompt: str
    answer: str
    passage: str | None = None


class StepRecord(Record):
    """One step of a run.

    `artifact` is the path of the step's artifact, `measured` that of the measured one (the lowered ONNX of a torch
    model); both are relative to the cache. `model_digest` is the same wherever the same model is measured, even as a
    standalone file (missing in older records). `seconds` and `measure_seconds` are the times that the work and the
    measuring originally took, even if this run took both from the cache. `samples`: texts generated for the step,
    empty if the report shows no texts.
    """

    step: str
    kind: str
    role: Role
    status: StepStatus
    key: str
    form: str
    artifact: str | None = None
    measured: str | None = None
    model_digest: str | None = None
    facts: dict[str, Any] = {}
    curves: tuple[Curve, ...] = ()
    size: Size | None = None
    parameters: int | None = None
    macs: int | None = None
    seconds: float = 0.0
    lower_seconds: float = 0.0
    measure_seconds: float = 0.0
    measurements: tuple[TargetMeasurement, ...] = ()
    samples: tuple[Sample, ...] = ()
    error: str | None = None

    @property
    def training_seconds(self) -> float | None:
        """Total time of all trainings of the step, a part of `seconds`; None if it trained nothing or no time was
        recorded."""
        seconds = [curve.seconds for curve in self.curves if curve.seconds is not None]
        return sum(seconds) if seconds else None


class Limit(Record):
    """One limit of the budget. `held` is None if it cannot be judged, and `reason` says why; `value` is None if there
    is nothing to compare."""

    step: str
    name: str
    limit: float
    value: float | None
    held: bool | None
    reason: str | None = None


class RunRecord(Record):
    """A whole run as the report reads it. `steps[0]` is the baseline, `steps[-1]` the deployed model.

    `seconds` is the total time of training, conversion and measuring, including cached work; `wall_seconds` the time
    of the command that finished the run. `notes` describes changes made to the data while loading. `excerpts` are the
    beginnings of test texts whose prediction changed, by index in the split.
    """

    run: str
    profile: str
    task: str
    metric: str
    status: RunStatus
    started: str
    seconds: float
    wall_seconds: float = 0.0
    labels: tuple[str, ...]
    splits: dict[str, int]
    seed: int
    profile_text: str
    environment: dict[str, Any]
    targets: tuple[str, ...]
    steps: tuple[StepRecord, ...]
    limits: tuple[Limit, ...] = ()
    notes: tuple[str, ...] = ()
    excerpts: dict[int, str] = {}
    bundle: str | None = None
    error: str | None = None
