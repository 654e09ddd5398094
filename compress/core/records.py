"""What a run leaves behind as plain data: measurements, one record a step, the run itself. JSON in, JSON out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Role = Literal["baseline", "step", "control", "variant"]
StepStatus = Literal["ok", "cached", "failed"]
RunStatus = Literal["running", "ok", "budget_missed", "not_judged", "failed", "interrupted"]
"""`not_judged`: complete, no limit was missed, and one could not be judged."""
COMPLETE = ("ok", "budget_missed", "not_judged")
"""How a run may end that deploys a model."""
Verdict = Literal["better", "worse", "no difference"]


class Record(BaseModel):
    """Plain frozen data that survives the round trip through JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Metric(Record):
    """One number of a task's score with its 95 % interval. A share is a fraction, not a percentage."""

    name: str
    value: float
    low: float
    high: float
    n: int
    smaller_is_better: bool = False


class Written(Record):
    """What a model wrote to prompts of the split, and which of it is right.

    `examples`: their places in the split; `prompts`, `expected`, `answers`: the texts, cut where they are long, and
    none where the report shows none. `p_value` and `verdict` are those of the exact McNemar test against the
    baseline's answers.
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
    """What a model reached in one task of a harness, `harness` with its version.

    `metrics`: shares of its documents; `right`: for each document, by the first of them; `documents`: the sha256 of
    what was asked. `p_value` and `verdict` are those of the exact McNemar test against the baseline.
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
    """Scores on one split; `metrics[0]` is the task's primary one.

    `p_value` and `verdict` come from the exact McNemar test against the baseline's predictions on the same
    examples; both are None for the baseline itself. `predictions` and `truth` are label indices, one an example.

    Embeddings have none of these. They are scored `against` given scores of pairs, where the test is a paired
    bootstrap over the pairs, or against the baseline's similarities, where there is no test: the verdict says whether
    the interval of the correlation stays below 1. What the `examples` say themselves is right needs no truth either:
    the test is that of the metric. `retention_low` and `retention_high` are given where they cannot be had of the
    predictions. `examples` is the sha256 of what was scored, labels left out; records of classifiers of before it was
    kept have none. `confidence` is the probability of each prediction, rounded to four decimals; records of before it
    was kept have none. `written`: where the model was asked
    to answer in words; `tasks`: where it was scored in those of a harness.
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
    written: Written | None = None
    tasks: tuple[TaskScore, ...] = ()


class Disturbance(Record):
    """What else the machine did while a pair of models was timed.

    `disturbed`: too many rounds in which threads had to wait for a core, also after they were taken again; None: nobody
    knows. `told_by`: what counted the waiting, `schedstat` (the kernel, for each thread), `processor time` or
    `unknown`. `waited` and `baseline_waited`: the time that the threads waited, all added up, as a share of the time
    of the rounds of each model. `rounds`: all that were timed; `disturbed_rounds` of them do not count, unless the
    row is disturbed. `pressure`: share of the time in which any thread of the machine waited for a core (Linux' PSI);
    `stolen`: time that the hypervisor took from its cores, as a share; `switches`: how often the process had to leave
    its core, a round; None where nobody counts them. `patient_s`: seconds spent on rounds that were taken again.
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
    """Timings of a model in alternation with the baseline, at one batch size; tokenization is left out.

    Times are milliseconds a batch. `lengths` says what was timed: `real` (examples of the data) or `fixed:128`.
    `speedup` = baseline p50 / p50 with its 95 % bootstrap interval; for the baseline itself the pair is the
    same file twice (the A/A run), so its interval shows the noise. `throughput` is examples a second.
    `verdict` is None where the row is disturbed: its numbers are those of all rounds, and say nothing of the model
    alone. Records of before disturbance was measured have none.
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
        """Whether other processes disturbed the timing beyond use, as far as anybody knows."""
        return self.disturbance is not None and self.disturbance.disturbed is True


class Memory(Record):
    """Memory of a process that imports only numpy and the runtime, in MB of 10^6 bytes.

    `peak_mb`: resident peak (its counter reset after the imports) above the resident size before the model is
    loaded; `absolute_peak_mb`: that peak itself; `gpu_peak_mb`: None without a GPU; `method`: the counter read;
    `limit_mb`: what the target allows at the absolute peak, None where it allows any. `lengths`: what was run, as in a
    timing; `read:128 write:32`: a prompt was read and an answer written.
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
        """Whether the process held more than the target allows."""
        return self.limit_mb is not None and self.absolute_peak_mb > self.limit_mb


class TargetMeasurement(Record):
    """Everything measured of one artifact on one target.

    `fingerprint` is that of the target with its batch sizes and lengths; `machine` leaves out what does not change a
    timing, and records of before it was kept have none. `load_ms`: the time to load the model, its file in the
    system's cache, the median of the processes that timed it; records of before it was taken have none.
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
        """Whether any of its timings is."""
        return any(one.disturbed for one in self.latency)


class CurvePoint(Record):
    """One evaluation while training."""

    step: int
    epoch: float
    train_loss: float
    validation_score: float | None


class Curve(Record):
    """A training run: which one, its points, and how many seconds its steps and evaluations took, also before it was
    stopped and gone on with; records of before that was kept have none."""

    name: str
    points: tuple[CurvePoint, ...]
    seconds: float | None = None


class Size(Record):
    """Bytes on disk in MB of 10^6 bytes: the model as the target runs it, its tokenizer, the whole directory."""

    model_mb: float
    tokenizer_mb: float
    total_mb: float


class Sample(Record):
    """What a teacher wrote for a student: the beginning of it, the end of its prompt, and why it was kept or not; or
    what the student wrote itself, and when. Of documents a question is the prompt, and `passage` is what it was written
    from."""

    by: Literal["teacher", "student"] = "teacher"
    why: str
    prompt: str
    answer: str
    passage: str | None = None


class StepRecord(Record):
    """One step of a run. `artifact` is the path of what the step made, `measured` of what was measured of it
    (the lowered ONNX of a torch model); both are relative to the cache. `model_digest` is the same wherever the same
    model is measured, also as a file alone; records of before it was kept have none. `seconds` is the time of the work
    when it was done, `measure_seconds` that of the measuring, also where both came from the cache this time.
    `samples`: of the texts that were written for it, unless the report shows none."""

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
        """The time that its models were trained, all trainings together, which is a part of `seconds`; None where it
        trained none, or nobody noted it."""
        found = [curve.seconds for curve in self.curves if curve.seconds is not None]
        return sum(found) if found else None


class Limit(Record):
    """One limit of the budget. `held` is None where it cannot be judged, and `reason` says why; the value is None
    where there is none to compare."""

    step: str
    name: str
    limit: float
    value: float | None
    held: bool | None
    reason: str | None = None


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
