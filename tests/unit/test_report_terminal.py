import pytest

from compress.reporting.render.terminal import RowLine, RunTable, budget_lines, summary_lines
from tests.records import bert_run, change_step, failed_run, missed_run
from tests.terminal import printed


@pytest.mark.parametrize("width", [30, 44, 60, 80, 100, 120, 200])
def test_lines_and_tables_fit_the_terminal(width):
    run = bert_run()
    lines = [line for step in run.steps for line in printed(RowLine(run, step), width=width).splitlines()]
    assert all(len(line) <= width for line in lines)
    assert len(lines) == 7
    shown = printed(RunTable(run), width=width).splitlines()
    assert all(len(line) <= width for line in shown)
    assert len({len(line) for line in lines}) == 1


def test_the_baseline_first_and_what_is_deployed_last():
    run = bert_run()
    lines = printed(RunTable(run), width=120).splitlines()
    assert lines[1].split()[:3] == ["step", "accuracy", "kept"]
    assert lines[2].split()[:4] == ["baseline", "97.8", "%", "100.0"]
    assert lines[-1].split()[0] == "export"


def test_a_row_as_it_goes():
    run = bert_run()
    line = printed(RowLine(run, run.steps[4]), width=120)
    assert line.split()[:7] == ["quantize", "96.4", "%", "98.6", "%", "0.506", "0.558"]
    header, baseline = printed(RowLine(run, run.steps[0]), width=120).splitlines()
    assert header.split()[:3] == ["step", "accuracy", "kept"]
    assert baseline.split()[3] == "100.0"
    assert "1×" in baseline.split()


def test_cached_and_failed_rows_say_so():
    run = change_step(bert_run(), "distill", status="cached")
    assert printed(RowLine(run, run.steps[1]), width=140).rstrip().endswith("cached")
    failed = failed_run()
    assert "failed: the model has 1,486,600 parameters" in printed(
        RowLine(failed, failed.steps[-1]), width=80
    )
    assert "failed" in printed(RunTable(failed), width=80)


def test_long_names_are_cut_and_markup_is_text():
    run = change_step(bert_run(), "prune", step="[red]a very long name of a step that goes on")
    line = printed(RowLine(run, run.steps[3]), width=80)
    assert line.startswith("[red]a very")
    assert "…" in line
    assert "[red]" in printed(RunTable(run), width=120)


def test_the_budget():
    held, missed = (line.plain for line in budget_lines(missed_run().limits))
    assert held == "met     export: retention 98.6 %, the limit is at least 97.0 %"
    assert missed == "MISSED  export: size_mb 1.61 MB, the limit is at most 1.50 MB"


def test_the_summary():
    lines = [line.plain for line in summary_lines(missed_run())]
    assert lines[0] == "Budget missed"
    assert sum("1.50 MB" in line for line in lines) == 1
    assert lines[-1].startswith("bundle  runs/")
    assert [line.plain for line in summary_lines(failed_run())][1].startswith("Step 'prune' failed")


def test_the_name_of_a_metric_is_not_cut():
    run = bert_run().model_copy(update={"metric": "bits_per_character"})
    header, _ = printed(RowLine(run, run.steps[0]), width=120).splitlines()
    assert header.split()[:3] == ["step", "score", "kept"]
