"""What a run leaves behind as plain data: measurements, one record a step, the run itself. JSON in, JSON out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Role = Literal["baseline", "step", "control", "variant"]
StepStatus = Literal["ok", "cached", "failed"]
RunStatus = Literal["running", "ok", "budget_missed", "failed", "interrupted"]
Verdict = Literal["better", "worse", "no difference"]


class Record(BaseModel):
    """Plain frozen data that survives the round trip through JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Metric(Record):
    """One number of a task's score with its 95 % interval. `value` is a fraction, not a percentage."""

    name: str
    value: float
    low: float
    high: float
    n: int


class Accuracy(Record):
    """Scores on one split; `metrics[0]` is the task's primary one.

    `p_value` and `verdict` come from the exact McNemar test against the baseline's predictions on the same
    examples; both are None for the baseline itself. `predictions` and `truth` are label indices, one an example.

    Embeddings have none of these. They are scored `against` given scores of pairs, where the test is a paired
    bootstrap over the pairs, or against the baseline's similarities, where there is no test: the verdict says whether
    the interval of the correlation stays below 1. `retention_low` and `retention_high` are given where they cannot be
    had of the predictions. `examples` is the sha256 of what was scored. `confidence` is the probability of each
    prediction, rounded to four decimals; records of before it was kept have none.
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
    against: Literal["labels", "scores", "baseline"] = "labels"
    retention_low: float | None = None
    retention_high: float | None = None
    examples: str | None = None
    confidence: tuple[float, ...] = ()


class Latency(Record):
    """Timings of a model in alternation with the baseline, at one batch size; tokenization is left out.

    Times are milliseconds a batch. `lengths` says what was timed: `real` (examples of the data) or `fixed:128`.
    `speedup` = baseline p50 / p50 with its 95 % bootstrap interval; for the baseline itself the pair is the
    same file twice (the A/A run), so its interval shows the noise. `throughput` is examples a second.
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
    verdict: Literal["faster", "slower", "no difference"]
    throughput: float
    samples_ms: tuple[float, ...]
    baseline_samples_ms: tuple[float, ...]


class Memory(Record):
    """Memory of a process that imports only numpy and the runtime, in MB of 10^6 bytes.

    `peak_mb`: resident peak (its counter reset after the imports) above the resident size before the model is
    loaded; `absolute_peak_mb`: that peak itself; `gpu_peak_mb`: None without a GPU; `method`: the counter read;
    `limit_mb`: what the target allows at the absolute peak, None where it allows any.
    """

    peak_mb: float
    absolute_peak_mb: float
    before_load_mb: float
    gpu_peak_mb: float | None = None
    method: str = "VmHWM, reset after the imports"
    limit_mb: float | None = None

    @property
    def over_limit(self) -> bool:
        """Whether the process held more than the target allows."""
        return self.limit_mb is not None and self.absolute_peak_mb > self.limit_mb


class TargetMeasurement(Record):
    """Everything measured of one artifact on one target.

    `fingerprint` is that of the target with its batch sizes and lengths; `machine` leaves out what does not change a
    timing, and records of before it was kept have none.
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
    seconds: float


class CurvePoint(Record):
    """One evaluation while training."""

    step: int
    epoch: float
    train_loss: float
    validation_score: float | None


class Curve(Record):
    """A training run: which one, and its points."""

    name: str
    points: tuple[CurvePoint, ...]


class Size(Record):
    """Bytes on disk in MB of 10^6 bytes: the model as the target runs it, its tokenizer, the whole directory."""

    model_mb: float
    tokenizer_mb: float
    total_mb: float


class StepRecord(Record):
    """One step of a run. `artifact` is the path of what the step made, `measured` of what was measured of it
    (the lowered ONNX of a torch model); both are relative to the cache. `model_digest` is the same wherever the same
    model is measured, also as a file alone; records of before it was kept have none. `seconds` is the time of the work
    when it was done, `measure_seconds` that of the measuring, also where both came from the cache this time."""

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
    error: str | None = None


class Limit(Record):
    """One judged limit of the budget."""

    step: str
    name: str
    limit: float
    value: float
    held: bool


class RunRecord(Record):
    """A whole run as the report reads it. `steps[0]` is the baseline, `steps[-1]` what is deployed.

    `seconds` is the time of all training, conversion and measuring, whenever it was done; `wall_seconds` the time of
    the command that finished the run. `notes` says what loading did to the data. `excerpts` are the beginnings of test
    texts whose answer changed, by their place in the split.
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
