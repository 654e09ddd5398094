"""What other processes do to timings: which rounds count, what is timed again, what is not believed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.records import Latency
from compress.measuring.jobs import Job
from compress.measuring.timing.disturbance import counted_rounds, disturbance, is_disturbed
from compress.measuring.timing.feeds import Scenario
from compress.measuring.timing.latency import latency_row, median_ms, run_with_retries
from compress.runtimes import runner
from compress.targets.patience import Patience

MS = 1_000_000
ONE = Scenario(1, None, np.zeros((1, 1), np.int64))


def result(
    waited: Sequence[Sequence[int]] | None, samples: Sequence[Sequence[int]] = (), **changes: Any
) -> dict[str, Any]:
    """What a process says of rounds of 10 ms (the baseline) and 1 ms, with these waits."""
    rounds = len(waited[0]) if waited else len(samples[0])
    timed = {
        "samples_ns": [list(row) for row in samples] or [[10 * MS] * rounds, [MS] * rounds],
        "inputs": list(range(rounds)),
        "waited_ns": waited,
        "waited_by": "schedstat" if waited else "unknown",
        "wanted": rounds,
        "patient_s": 0.0,
        "machine": {"wall": 1.0, "pressure": 0.5, "stolen": 0.0, "switches": 4},
    }
    return {"scenarios": [timed | changes]}


QUIET = [[0] * 20, [0] * 20]


@pytest.mark.parametrize(
    ("waited", "disturbed"),
    [
        (QUIET, False),
        # 2 % of 10 ms, and of 1 ms, are still clean.
        ([[200_000] * 20, [20_000] * 20], False),
        ([[200_001] * 20, [0] * 20], True),
        ([[0] * 20, [20_001] * 20], True),
        # A tenth of the rounds may be disturbed.
        ([[0] * 18 + [5 * MS] * 2, [0] * 20], False),
        ([[0] * 17 + [5 * MS] * 3, [0] * 20], True),
        ([[0] * 20, [0] * 17 + [MS] * 3], True),
    ],
)
def test_a_timing_is_disturbed_where_its_threads_waited(waited: list[list[int]], disturbed: bool) -> None:
    assert is_disturbed(result(waited), 0) is disturbed
    record = disturbance([result(QUIET), result(waited)], 0)
    assert record.disturbed is disturbed
    assert record.rounds == 40
    assert record.told_by == "schedstat"
    assert record.switches == pytest.approx(8 / 40)
    assert record.baseline_waited == pytest.approx(sum(waited[0]) / (40 * 10 * MS))
    assert record.waited == pytest.approx(sum(waited[1]) / (40 * MS))


def test_waking_a_thread_is_no_disturbance() -> None:
    samples = [[100_000] * 20] * 2
    assert not is_disturbed(result([[5_000] * 20] * 2, samples), 0)
    assert is_disturbed(result([[5_001] * 20] * 2, samples), 0)


def test_a_hypervisor_that_takes_the_cores_disturbs() -> None:
    machine = {"wall": 1.0, "pressure": None, "stolen": 0.06, "switches": None}
    assert is_disturbed(result(QUIET, machine=machine), 0)
    assert not is_disturbed(result(QUIET, machine={**machine, "stolen": 0.04}), 0)
    record = disturbance([result(QUIET, machine=machine)], 0)
    assert (record.stolen, record.pressure, record.switches) == (0.06, None, None)


def test_what_nobody_counts_is_unknown() -> None:
    unknown = result(None, [[10 * MS] * 4, [MS] * 4])
    assert not is_disturbed(unknown, 0)
    assert counted_rounds(unknown, 0, (0, 1)).all()
    record = disturbance([unknown, result(QUIET)], 0)
    assert (record.disturbed, record.told_by, record.waited) == (None, "unknown", None)
    row = latency_row(ONE, [unknown], 0, 1.0, 0)
    # Nothing says that it was disturbed: what the interval says is said.
    assert (row.verdict, row.disturbed) == ("faster", False)


def test_disturbed_rounds_do_not_count_where_enough_are_left() -> None:
    samples = [[10 * MS] * 18 + [30 * MS] * 2, [MS] * 20]
    waited = [[0] * 18 + [20 * MS] * 2, [0] * 20]
    row = latency_row(ONE, [result(waited, samples)], 0, 1.0, 0)
    assert (row.rounds, row.speedup, row.verdict, row.disturbed) == (18, 10, "faster", False)
    assert max(row.baseline_samples_ms) == 10
    assert median_ms([result(waited, samples)], 0) == 10


def test_of_a_disturbed_row_all_rounds_are_kept_and_nothing_is_claimed() -> None:
    samples = [[10 * MS] * 10 + [30 * MS] * 10, [MS] * 20]
    waited = [[0] * 10 + [20 * MS] * 10, [0] * 20]
    row = latency_row(ONE, [result(QUIET), result(waited, samples)], 0, 1.0, 0)
    assert (row.rounds, row.verdict, row.disturbed) == (40, None, True)
    assert max(row.baseline_samples_ms) == 30
    assert row == Latency.model_validate_json(row.model_dump_json())


def test_records_of_before_are_read() -> None:
    row = latency_row(ONE, [result(QUIET)], 0, 1.0, 0)
    body = row.model_dump(exclude={"disturbance"})
    assert Latency.model_validate(body).disturbance is None
    assert not Latency.model_validate(body).disturbed


# What the runner times again.


class Machine:
    """A clock that passes while a model runs or the runner sleeps, and a neighbour that is busy until `quiet_at` ms:
    meanwhile every run takes three times as long, two thirds of it waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, quiet_at: float) -> None:
        self.now, self.waited, self.quiet_at = 0, 0, quiet_at * MS
        self.slept: list[float] = []
        monkeypatch.setattr(runner.time, "perf_counter_ns", lambda: self.now)
        monkeypatch.setattr(runner.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += int(seconds * 1e9)

    def model(self, milliseconds: float) -> runner.Predict:
        def predict(batch: runner.Batch) -> None:
            busy = self.now < self.quiet_at
            self.now += int(milliseconds * MS) * (3 if busy else 1)
            self.waited += int(milliseconds * MS) * 2 if busy else 0

        return predict

    def timed(self, patience_s: float) -> runner.Rounds:
        feeds = [[{"n": number} for number in range(8)]] * 2
        models = [self.model(10), self.model(5)]
        return runner.time_in_turns(
            models, feeds, 0.001, 16, waited=lambda: self.waited, patience_s=patience_s
        )


def test_a_quiet_machine_is_timed_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = Machine(monkeypatch, quiet_at=0).timed(60)
    assert rounds.samples_ns == [[10 * MS] * 16, [5 * MS] * 16]
    assert rounds.waited_ns == [[0] * 16] * 2
    assert (rounds.wanted, rounds.patient_s) == (16, 0)


def test_disturbed_rounds_are_taken_again_on_the_same_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, quiet_at=600)
    rounds = machine.timed(60)
    clean = runner.clean_rounds(rounds.samples_ns, rounds.waited_ns).all(axis=0)
    assert not clean[: rounds.wanted].all()
    # Every round that was wanted has a clean one on its batch, but for the tenth that is tolerated.
    wanted = sorted(rounds.inputs[: rounds.wanted])
    found = sorted(np.array(rounds.inputs)[clean].tolist())
    assert len(found) >= 0.9 * len(wanted)
    assert all(found.count(each) <= wanted.count(each) for each in found)
    assert 0 < rounds.patient_s < 2
    assert machine.slept == []


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, quiet_at=1e9)
    rounds = machine.timed(10)
    assert not runner.clean_rounds(rounds.samples_ns, rounds.waited_ns).any()
    # It may end in the middle of a turn.
    assert 10 <= rounds.patient_s < 11
    assert machine.slept[:5] == [0.1, 0.2, 0.4, 0.8, 1.0]
    again = Machine(monkeypatch, quiet_at=1e9)
    rounds = again.timed(0)
    assert (len(rounds.inputs), rounds.wanted, rounds.patient_s, again.slept) == (16, 16, 0, [])


class Jobs:
    """A folder of jobs that are busy or not, as told; what each was allowed is kept."""

    def __init__(self, patience: Patience, busy: Iterator[bool]) -> None:
        self.patience, self.busy, self.allowed = patience, busy, list[float]()

    def run(self, job: Job) -> list[dict[str, Any]]:
        allowed = job.body["patience_s"]
        self.allowed.append(allowed)
        busy = next(self.busy)
        waited = [[5 * MS] * 20, [0] * 20] if busy else QUIET
        return [result(waited, patient_s=allowed if busy else 0.0)]


def test_a_run_has_patience_once_and_a_row_is_given_up_once() -> None:
    jobs = Jobs(Patience(60), iter([False, True, True, False, True, False]))
    rows: list[Callable[[], Any]] = [lambda: list(run_with_retries(jobs, [Job({}, "timing")] * 3))] * 2  # type: ignore[arg-type, list-item]
    for row in rows:
        row()
    # The second process of the first row takes half of it, and nothing is left for the third.
    assert jobs.allowed == [30, 30, 0, 15, 15, 0]
    assert jobs.patience.remaining == 15


@given(st.lists(st.booleans(), max_size=40), st.floats(0, 1e4))
def test_a_run_never_waits_longer_than_it_may(busy: list[bool], seconds: float) -> None:
    jobs = Jobs(Patience(seconds), iter(busy))
    for _ in busy:
        list(run_with_retries(jobs, [Job({}, "timing")]))  # type: ignore[arg-type]
    assert sum(allowed for allowed, was in zip(jobs.allowed, busy, strict=True) if was) <= seconds + 1e-6
    assert jobs.patience.remaining >= 0


# What the kernel counts.


@pytest.mark.skipif(sys.platform != "linux", reason="the counters are Linux's")
def test_the_kernel_counts_what_a_thread_waits() -> None:
    if not runner.schedstat_files():
        pytest.skip("this system does not count it")
    cores = os.sched_getaffinity(0)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # A neighbour on the same core.
        os.sched_setaffinity(0, {min(cores)})
        os.write(writer, b"x")
        while True:
            pass
    try:
        os.read(reader, 1)
        os.sched_setaffinity(0, {min(cores)})
        before = runner.machine_counters()
        with runner.CoreWaits(1) as waits:
            assert waits.source == "schedstat"
            start, waited = time.perf_counter_ns(), waits.read()
            while time.perf_counter_ns() - start < 300 * MS:
                pass
            waited = waits.read() - waited
        since = runner.counters_since(before)
    finally:
        os.sched_setaffinity(0, cores)
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
    # Half of the time at least goes to the neighbour, and more where others run too.
    assert waited > 90 * MS
    assert since["switches"] > 5
    assert since["wall"] >= 0.3


def test_without_the_kernels_count_the_processor_time_tells_of_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "schedstat_files", list)
    with runner.CoreWaits(2) as waits:
        assert (waits.source, waits.read()) == ("unknown", 0)
    with runner.CoreWaits(1) as waits:
        assert waits.source == "processor time"
        before = waits.read()
        time.sleep(0.05)
        assert waits.read() - before > 40 * MS
