"""What is said of rows that other processes disturbed: that they are, and nothing of their speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from compress.cli.root import main
from compress.core.records import Limit, RunRecord
from compress.engine.budget import judge, run_status
from compress.profile.specs.budget import BudgetSpec
from compress.reporting.checking import Tolerances, check
from compress.reporting.compare import compare
from compress.reporting.data.frame import contract, contract_text, rows
from compress.reporting.render.terminal import RowLine, RunTable, summary_lines
from compress.reporting.render.write import write_report
from compress.reporting.sections.content import document
from compress.reporting.sections.headline import status_words, tiles, verdicts
from compress.store.runs import RunStore
from tests.records import bert_run, change_step, disturbed_step
from tests.terminal import printed

RUN = disturbed_step(bert_run(), "export")


@pytest.mark.parametrize("width", [44, 64, 100, 150])
def test_the_terminal_marks_the_row_and_claims_no_speed(width: int) -> None:
    for text in (printed(RowLine(RUN, RUN.steps[-1]), width=width), printed(RunTable(RUN), width=width)):
        line = next(line for line in text.splitlines() if line.startswith("export"))
        assert "~0.5" in line
        assert "×" not in line
        assert ("disturbed" in line) is (width >= 100)
    said = "\n".join(line.plain for line in summary_lines(RUN))
    assert "Other processes disturbed the timing" in said
    assert "'export'" in said


def test_no_headline_tells_a_speed_and_no_verdict_is_left() -> None:
    (tile,) = [tile for tile in tiles(RUN) if "speed" in tile.label]
    assert tile.value == "unknown"
    assert not any("×" in text and "faster" in text for text in verdicts(RUN))
    assert any("faster" in tile.label for tile in tiles(bert_run()))


def test_the_json_keeps_its_keys_and_marks_the_row() -> None:
    before, after = contract(bert_run())["rows"][-1], contract(RUN)["rows"][-1]
    assert before.keys() == after.keys()
    assert (before["disturbed"], after["disturbed"]) == (None, True)
    assert after["latency_verdict"] is None
    assert after["dominated_by"] is None
    assert after["latency_p50_change_ms"] is None
    (timing, _) = after["targets"][0]["latency"]
    assert timing["disturbed"] is True
    assert timing["disturbance"]["waited"] == 0.42
    assert (timing["disturbance"]["told_by"], timing["disturbance"]["disturbed_rounds"]) == ("schedstat", 118)
    assert bool(rows(RUN).set_index("step")["disturbed"]["export"]) is True


def test_every_file_of_a_report_says_it(tmp_path: Path) -> None:
    paths = write_report(RUN, tmp_path)
    for file in (paths.html, paths.markdown, paths.csv, paths.json):
        assert "disturbed" in file.read_text(encoding="utf-8"), file
    shown = document(RUN)
    (section,) = [one for one in shown.sections if one.key == "disturbances"]
    assert section.tables[0].columns[3] == "disturbed rounds"
    cells = [cell.text for cell in section.tables[0].rows[0].cells]
    assert cells[1:8] == ["42.0 %", "91.0 %", "118 of 120", "97.0 %", "0.0 %", "31.5", "3.2 s"]
    assert cells[8] == "disturbed"


def test_a_row_that_was_disturbed_at_one_batch_size_keeps_its_other_speeds() -> None:
    whole, found = bert_run(), RUN.steps[-1].measurements[0]
    latency = (whole.steps[-1].measurements[0].latency[0], *found.latency[1:])
    run = change_step(whole, "export", measurements=(found.model_copy(update={"latency": latency}),))
    (told,) = [line for line in verdicts(run) if "no speed is claimed for" in line]
    assert "no speed is claimed for: 'export' (batch 8). " in told
    assert any("faster" in tile.label for tile in tiles(run))
    (told,) = [line for line in verdicts(RUN) if "no speed is claimed for" in line]
    assert "no speed is claimed for: 'export'. " in told


def test_where_nobody_counts_the_report_says_unknown() -> None:
    step = disturbed_step(bert_run(), "export").steps[-1]
    (measured,) = step.measurements
    unknown = measured.latency[0].disturbance.model_copy(  # type: ignore[union-attr]
        update={"disturbed": None, "told_by": "unknown", "waited": None, "baseline_waited": None}
    )
    timing = measured.latency[0].model_copy(update={"disturbance": unknown, "verdict": "faster"})
    run = change_step(
        bert_run(), "export", measurements=(measured.model_copy(update={"latency": (timing,)}),)
    )
    (section,) = [one for one in document(run).sections if one.key == "disturbances"]
    assert [cell.text for cell in section.tables[0].rows[0].cells][1:3] == ["unknown", "unknown"]
    assert section.tables[0].rows[0].cells[8].text == "unknown"
    assert contract(run)["rows"][-1]["disturbed"] is None
    assert contract(run)["rows"][-1]["latency_verdict"] == "faster"


def test_what_passes_chose_meanwhile_is_marked() -> None:
    assert not any("timings by which" in text for text in verdicts(bert_run()))
    for facts in ({"timing_disturbed": True}, {"target": {"timing_disturbed": True}}):
        run = change_step(bert_run(), "quantize", facts=facts)
        assert any("timings by which 'quantize' chose" in text for text in verdicts(run))
    # A probe chooses nothing.
    run = change_step(bert_run(), "quantize", facts={"probe": {"timing_disturbed": True}})
    assert not any("timings by which" in text for text in verdicts(run))


# Budgets.


def test_timings_that_were_disturbed_are_not_judged() -> None:
    budget = BudgetSpec(
        speedup=2, latency_p50_ms=9, latency_p95_ms=0.001, size_mb=6, retention=0.9, peak_memory_mb=1
    )
    held = {limit.name: limit.held for limit in judge(RUN.steps[-1], budget)}
    assert held == {
        "retention": True,
        "speedup": None,
        "latency_p50_ms": None,
        "latency_p95_ms": None,
        "size_mb": True,
        "peak_memory_mb": False,
    }
    quiet = {limit.name: limit.held for limit in judge(bert_run().steps[-1], budget)}
    assert (quiet["speedup"], quiet["latency_p50_ms"], quiet["latency_p95_ms"]) == (True, True, False)


def test_where_every_workload_is_judged_the_worst_must_hold() -> None:
    step, budget = bert_run().steps[-1], BudgetSpec(speedup=2, latency_p50_ms=9)
    (found,) = step.measurements
    first = found.latency[0]
    slow = first.model_copy(update={"lengths": "fixed:512", "p50_ms": 10.0, "speedup": 1.5})
    found = found.model_copy(update={"latency": (first, slow)})
    step = step.model_copy(update={"measurements": (found,)})
    assert all(limit.held for limit in judge(step, budget))
    judged = {limit.name: (limit.value, limit.held) for limit in judge(step, budget, all_timings=True)}
    assert judged == {"speedup": (1.5, False), "latency_p50_ms": (10.0, False)}


@pytest.mark.parametrize(
    ("held", "status"),
    [
        ([], "ok"),
        ([True], "ok"),
        ([True, None], "not_judged"),
        ([True, None, False], "budget_missed"),
    ],
)
def test_how_a_run_ends(held: list[bool | None], status: str) -> None:
    limits = [Limit(step="export", name="size_mb", limit=1, value=1, held=one) for one in held]
    assert run_status(limits) == status


def unjudged_run() -> RunRecord:
    limits = judge(RUN.steps[-1], BudgetSpec(speedup=2, size_mb=6))
    return RUN.model_copy(update={"limits": limits, "status": run_status(limits)})


def test_a_limit_that_is_not_judged_is_neither_held_nor_missed() -> None:
    run = unjudged_run()
    assert status_words(run) == ("Budget not judged", "bad")
    said = "\n".join(line.plain for line in summary_lines(run))
    assert "not judged  export: speedup" in said
    assert "other processes disturbed the timing" in said
    assert "was met" not in said
    body = contract(run)
    assert (body["status"], body["bundle"]) == ("not_judged", run.bundle)
    assert {limit["name"]: limit["held"] for limit in body["budget"]} == {"speedup": None, "size_mb": True}
    assert contract_text(run) == contract_text(RunRecord.model_validate_json(run.model_dump_json()))


# Checks.


@pytest.mark.parametrize(("now", "then"), [(RUN, bert_run()), (bert_run(), RUN)])
def test_a_check_does_not_judge_them_either(now: RunRecord, then: RunRecord) -> None:
    found = check(contract(now), contract(then), Tolerances(latency=0))
    assert [(line.step, line.quantity) for line in found.unjudged] == [("export", "latency")]
    assert not found.worse
    assert found.as_dict()["ok"] is False
    assert "not judged" in printed(found.table())
    assert check(contract(bert_run()), contract(bert_run()), Tolerances()).as_dict()["ok"] is True


def test_a_report_of_before_disturbance_was_measured_is_judged() -> None:
    then = json.loads(contract_text(bert_run()))
    for row in then["rows"]:
        del row["disturbed"]
        for timing in row["targets"][0]["latency"]:
            del timing["disturbed"], timing["disturbance"]
    assert not check(contract(bert_run()), then, Tolerances()).unjudged


def test_check_exits_with_3_unless_that_is_allowed(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs" / RUN.run)
    store.begin(RUN)
    for position, step in enumerate(RUN.steps):
        store.add(position, step)
    store.write(RUN)
    then = tmp_path / "then.json"
    then.write_text(contract_text(bert_run()), encoding="utf-8")
    words = ["check", str(tmp_path / "runs" / RUN.run), "--against", str(then)]
    runner = CliRunner()
    refused = runner.invoke(main, words)
    assert refused.exit_code == 3
    assert "[not-judged]" in refused.output
    assert runner.invoke(main, [*words, "--allow-unjudged"]).exit_code == 0


def test_compare_shows_no_speed_up_of_them() -> None:
    shown = printed(compare([bert_run(run="a"), replace_run(RUN, "b")]).table())
    line = next(line for line in shown.splitlines() if line.startswith("│ speed-up"))
    assert line.count("×") == 1


def replace_run(run: RunRecord, name: str) -> RunRecord:
    return run.model_copy(update={"run": name})
