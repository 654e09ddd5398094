"""What a task declares to be measured by: in budgets, columns, `check`, `compare`, the terminal and the pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from compress.core.errors import ProfileError, UsageError
from compress.core.records import Metric, RunRecord
from compress.engine.budget import DISTURBED, judge, run_status
from compress.profile.json_schema import json_schema
from compress.profile.load import load_profile
from compress.profile.specs.budget import budget_spec
from compress.reporting.checking import Tolerances, check
from compress.reporting.compare import compare, differences
from compress.reporting.data.frame import contract, rows
from compress.reporting.data.pareto import front
from compress.reporting.render.document import row
from compress.reporting.render.markdown import markdown
from compress.reporting.render.scores import metric_format
from compress.reporting.render.terminal import RowLine, RunTable, budget_lines
from compress.reporting.sections import result_sections, run_sections
from compress.reporting.sections.content import document
from compress.reporting.sections.facts import ranks_to_values
from compress.reporting.sections.headline import tiles
from compress.reporting.sections.quantities import quantities
from compress.tasks.table import quantities_of
from tests.records import bert_run, change_step, disturbed_step, measurement
from tests.terminal import printed

LM = "causal-lm"
NAMES = [quantity.name for quantity in quantities_of(LM)]
TIMED = ((1, "write:128"), (4, "write:128"), (1, "read:128"), (4, "read:128"))


def language_run(factor: float = 1.0, read_factor: float = 1.0, **changes) -> RunRecord:
    """The run of records as that of a language model, in which everything takes so much longer, and reading more."""
    run = bert_run(task=LM, metric="perplexity", **changes)
    for step in run.steps:
        (found,) = step.measurements
        p50 = factor * found.latency[0].p50_ms
        made = measurement(found.accuracy, p50, 12.4, found.memory.peak_mb, timed=TIMED, machine="m")
        latency = tuple(
            one.model_copy(
                update={
                    "p50_ms": read_factor * one.p50_ms,
                    "speedup": one.speedup / read_factor,
                }
            )
            if one.lengths.startswith("read")
            else one
            for one in made.latency
        )
        run = change_step(run, step.step, measurements=(made.model_copy(update={"latency": latency}),))
    return run


RUN = language_run()
DEPLOYED = RUN.steps[-1]


def test_the_table_of_steps_marks_what_was_disturbed() -> None:
    run, disturbed = language_run(), disturbed_step(language_run(), "export")
    read = [one.lengths.startswith("read") for one in run.steps[-1].measurements[0].latency]
    found = disturbed.steps[-1].measurements[0]
    latency = tuple(
        two if reads else one
        for one, two, reads in zip(run.steps[-1].measurements[0].latency, found.latency, read, strict=True)
    )
    run = change_step(run, "export", measurements=(found.model_copy(update={"latency": latency}),))
    (table,) = result_sections.steps(run).tables
    cells = dict(zip(table.columns, table.rows[-1].cells, strict=True))
    assert cells["the first token, ms"].detail == "disturbed"
    assert cells["writing, tokens/s"].detail == cells["p50 ms"].tone == ""


def timing(batch_size: int, lengths: str):
    (found,) = DEPLOYED.measurements
    return next(one for one in found.latency if (one.batch_size, one.lengths) == (batch_size, lengths))


def test_columns_are_those_of_the_first_batch_size_and_the_others_stand_under_their_place():
    row = contract(RUN)["rows"][-1]
    write, read = timing(1, "write:128"), timing(1, "read:128")
    assert row["decode_tokens_per_s"] == pytest.approx(1000 / write.p50_ms)
    assert row["prefill_tokens_per_s"] == pytest.approx(128_000 / read.p50_ms)
    assert row["first_token_ms"] == read.p50_ms
    assert (row["token_p50_ms"], row["token_p95_ms"]) == (write.p50_ms, write.p95_ms)
    flat = rows(RUN).iloc[-1]
    assert flat["decode_tokens_per_s"] == row["decode_tokens_per_s"]
    four = timing(4, "write:128"), timing(4, "read:128")
    place = RUN.targets[0]
    assert flat[f"decode_tokens_per_s[{place} b4 write:128]"] == pytest.approx(4000 / four[0].p50_ms)
    assert flat[f"prefill_tokens_per_s[{place} b4 read:128]"] == pytest.approx(4 * 128_000 / four[1].p50_ms)
    # What the flat key says already stands once.
    assert f"first_token_ms[{place} b1 read:128]" not in flat
    assert f"latency_p50_ms[{place} b1 read:128]" in flat
    assert not {*NAMES} & {*contract(bert_run())["rows"][-1]}
    assert not [name for name in rows(bert_run()).columns if name.partition("[")[0] in NAMES]


def test_direction_decides_what_a_limit_is():
    budget = budget_spec(LM)(
        decode_tokens_per_s=1000, first_token_ms=0.1, token_p95_ms=100, latency_p50_ms=100
    )
    limits = judge(DEPLOYED, budget, quantities=quantities_of(LM))
    held = {limit.name: limit.held for limit in limits}
    assert held == {
        "latency_p50_ms": True, "decode_tokens_per_s": True, "first_token_ms": False, "token_p95_ms": True,
    }  # fmt: skip
    floor = budget_spec(LM)(decode_tokens_per_s=1e6)
    assert [limit.held for limit in judge(DEPLOYED, floor, quantities=quantities_of(LM))] == [False]
    said = "\n".join(line.plain for line in budget_lines(limits, "perplexity"))
    assert "the limit is at least 1000 tokens/s" in said
    assert "the limit is at most 0.100 ms" in said
    # Where all that was timed is judged, it is the worst of them.
    (worst,) = judge(
        DEPLOYED, budget_spec(LM)(first_token_ms=1), all_timings=True, quantities=quantities_of(LM)
    )
    assert worst.value == timing(4, "read:128").p50_ms


def test_a_disturbed_timing_is_not_judged():
    run = disturbed_step(RUN, "export")
    (limit,) = judge(run.steps[-1], budget_spec(LM)(first_token_ms=9), quantities=quantities_of(LM))
    assert (limit.held, limit.reason) == (None, DISTURBED)
    assert run_status([limit]) == "not_judged"


def test_check_judges_each_of_them_once():
    then = contract(RUN)
    found = check(contract(language_run(read_factor=1.3)), then, Tolerances(), deployed_only=True)
    assert [line.quantity for line in found.lines] == [
        "score", "latency", "decode_tokens_per_s", "first_token_ms", "prefill_tokens_per_s", "token_p50_ms",
        "size", "memory",
    ]  # fmt: skip
    assert [line.quantity for line in found.worse] == ["first_token_ms", "prefill_tokens_per_s"]
    line = found.worse[1]
    assert line.change == pytest.approx(1 / 1.3 - 1)
    table = printed(found.table(), width=160)
    (shown,) = (text for text in table.splitlines() if "prefill_tokens_per_s" in text)
    assert "tokens/s, batch size 1 (read:128)" in shown
    assert "−23.1 %  −9.1 %  WORSE" in " ".join(shown.split(" ")).replace("   ", "  ")
    # A rate may fall by as much as a time may grow.
    assert not check(contract(language_run(read_factor=1.09)), then, Tolerances(), deployed_only=True).worse
    assert not check(contract(language_run(read_factor=0.5)), then, Tolerances(), deployed_only=True).worse


def before_them(run: RunRecord) -> dict:
    """Its report as it was written before the task declared anything."""
    report = json.loads(json.dumps(contract(run)))
    for line in report["rows"]:
        for name in NAMES:
            del line[name]
        for timed in (one for target in line["targets"] for one in target["latency"]):
            for name in NAMES:
                timed.pop(name, None)
    return report


def test_a_report_of_before_they_were_declared_is_still_read():
    old = before_them(RUN)
    found = check(contract(language_run(1.3)), old, Tolerances(), deployed_only=True)
    assert [line.quantity for line in found.worse] == ["latency"]
    assert not {line.quantity for line in found.lines} & {*NAMES}
    compared = {line.cells[0].text: line for line in compare([RUN, old]).deployed.rows}
    assert [cell.text for cell in compared["writing, tokens/s"].cells[1:]] != ["–", "–"]
    assert compared["writing, tokens/s"].cells[2].text == "–"
    assert "writing, tokens/s" not in {
        line.cells[0].text for line in compare([bert_run(), bert_run()]).deployed.rows
    }


def test_compare_sets_those_of_one_setting_beside_each_other():
    other = language_run(2.0, run="other")
    compared = {line.cells[0].text: line for line in compare([RUN, other]).deployed.rows}
    mine, theirs = (float(cell.text) for cell in compared["the first token, ms"].cells[1:])
    assert theirs == pytest.approx(2 * mine, rel=0.1)


def test_the_terminal_shows_them_where_there_is_room():
    def header(width: int) -> str:
        return printed(RowLine(RUN, RUN.steps[0]), RunTable(RUN), width=width)

    assert "tokens/s" in header(80)
    assert "first ms" in header(80)
    assert "tokens/s" not in header(60)
    assert all(len(line) <= 80 for line in header(80).splitlines())
    assert "speed-up" in header(120)
    marked = RowLine(disturbed_step(RUN, "baseline"), disturbed_step(RUN, "baseline").steps[0])
    assert printed(marked, width=80).count("~") == 3
    wide = header(140)
    assert f"{1000 / timing(1, 'write:128').p50_ms:.0f}" in wide


def test_the_pages_show_them_and_plots_set_scores_against_the_first():
    text = str(document(RUN))
    for quantity in quantities_of(LM):
        assert f"{quantity.display_name}, {quantity.unit}" in text
    assert {"writing, tokens/s", "the first token, ms"} < {*result_sections.steps(RUN).tables[0].columns}
    assert (
        result_sections.steps(RUN).tables[0].rows[-1].cells[8].text
        == f"{1000 / timing(1, 'write:128').p50_ms:.0f}"
    )
    (own,) = quantities(disturbed_step(RUN, "export")).tables
    assert [line.cells[2].detail for line in own.rows if line.cells[0].text == "export"] == ["disturbed"] * 4
    (figure,) = front(RUN).figures
    assert figure.plot.x_label == "writing, tokens/s"
    (plane,) = (section for section in document(RUN).sections if section.key == "plane")
    assert "better is down and to the right" in plane.figures[0].caption
    assert "better is down and to the left" in plane.figures[1].caption
    (old,) = front(bert_run()).figures
    assert old.plot.x_label == "median latency, ms"


def written(tmp_path: Path, task: str, budget: dict) -> Path:
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "texts.jsonl").write_text('{"text": "a", "label": "b"}\n')
    file = tmp_path / "p.yaml"
    profile = {
        "name": "p",
        "task": task,
        "data": {"path": "texts.jsonl"},
        "teacher": {"model": "model"},
        "passes": [{"export": {}}],
        "budget": budget,
    }
    file.write_text(yaml.safe_dump(profile, sort_keys=False))
    return file


def faults_of(file: Path) -> list[str]:
    with pytest.raises(ProfileError) as caught:
        load_profile(file)
    return [f"{fault.path}: {fault.message}" for fault in caught.value.faults]


def test_a_limit_of_another_task_is_refused_with_those_that_there_are(tmp_path: Path):
    (said,) = [
        fault for fault in faults_of(written(tmp_path, "text-classification", {"first_token_ms": 200}))
        if fault.startswith("budget")
    ]  # fmt: skip
    assert said.startswith("budget.first_token_ms: this limit is only for causal-lm; limits of text-classif")
    assert said.endswith("latency_p95_ms, peak_memory_mb, retention, score, size_mb, speedup")


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"first_token_m": 200}, "budget.first_token_m: unknown key; did you mean `first_token_ms`?"),
        ({"first_token_ms": 0}, "budget.first_token_ms: should be greater than 0, not 0"),
        ({"decode_tokens_per_s": "fast"}, "budget.decode_tokens_per_s: should be a valid number"),
        ({"decode_tokens_per_s": True}, "budget.decode_tokens_per_s: expected a number"),
    ],
)
def test_wrong_limits_are_told_with_their_place(tmp_path: Path, budget: dict, said: str):
    assert any(fault.startswith(said) for fault in faults_of(written(tmp_path, LM, budget))), said


def test_the_schema_holds_them():
    keys = json_schema()["$defs"]["BudgetSpec"]["properties"]
    assert keys["decode_tokens_per_s"]["description"].startswith("Causal lm: at least: writing, tokens/s")
    assert keys["first_token_ms"]["description"].startswith("Causal lm: at most: ")


def weighed_at(lengths: str, peak_mb: float = 5.0) -> RunRecord:
    """The run with the peak memory of something else."""
    run = RUN
    for step in run.steps:
        (found,) = step.measurements
        memory = found.memory.model_copy(update={"lengths": lengths, "peak_mb": peak_mb})
        run = change_step(run, step.step, measurements=(found.model_copy(update={"memory": memory}),))
    return run


def test_memory_of_other_lengths_is_not_compared():
    now, then = contract(weighed_at("read:128 write:32", 50.0)), contract(weighed_at("read:128 write:32"))
    found = check(now, then, Tolerances(), deployed_only=True)
    assert [line.quantity for line in found.worse] == ["memory"]
    longer = contract(weighed_at("read:512 write:32"))
    with pytest.raises(
        UsageError, match=r"measured at batch size 1 \(read:512 write:32\) now, and at batch size 1"
    ):
        check(longer, then, Tolerances())
    old = json.loads(json.dumps(contract(weighed_at("real"))))
    for target in (target for line in old["rows"] for target in line["targets"]):
        del target["memory_lengths"]
    found = check(now, old, Tolerances(), deployed_only=True)
    assert not {line.quantity for line in found.lines} & {"memory"}
    compared = {line.cells[0].text: line.cells[1:] for line in compare([now, old]).deployed.rows}
    assert [cell.text for cell in compared["peak MB"]] == ["50.0", "–"]


def test_scores_that_passes_note_are_read_as_the_metric():
    facts = {
        "validation_score": -12.5,
        "parameters": 7,
        "offset": -1.0,
        "generations": [{"validation_score": -13.0}],
        "quantize": {"validation_score_before": -14.0},
        "on_validation": {"float": -12.0, "chosen": "bias_correction"},
        "variants": {"static": {"score": -12.5, "p50_ms": 3.0}},
    }
    read = ranks_to_values(facts, metric_format("perplexity"))
    assert read == {
        "validation_score": 12.5,
        "parameters": 7,
        "offset": -1.0,
        "generations": [{"validation_score": 13.0}],
        "quantize": {"validation_score_before": 14.0},
        "on_validation": {"float": 12.0, "chosen": "bias_correction"},
        "variants": {"static": {"score": 12.5, "p50_ms": 3.0}},
    }
    assert ranks_to_values({"validation_score": 0.5}, metric_format("accuracy")) == {"validation_score": 0.5}
    run = change_step(RUN, "export", facts={"validation_score": -12.5})
    assert row("export", "validation_score", "12.5") in run_sections.findings(run).tables[0].rows


def scored_by_perplexity(run: RunRecord, tokens: int) -> RunRecord:
    """The run with scores of a language model, over so many tokens."""
    scores = Metric(name="perplexity", value=9.0, low=8.0, high=10.0, n=tokens, smaller_is_better=True)
    metrics = (scores, scores.model_copy(update={"name": "bits_per_byte"}))
    made = {"against": "examples", "metrics": metrics, "truth": (), "predictions": (), "examples": "e" * 64}
    for step in run.steps:
        (found,) = step.measurements
        scored = found.accuracy.model_copy(update=made)
        run = change_step(run, step.step, measurements=(found.model_copy(update={"accuracy": scored}),))
    return run


def test_a_task_says_itself_what_its_metrics_mean_and_which_test_tells_models_apart():
    run = scored_by_perplexity(RUN, 9)
    (said,) = run_sections.metrics(run).paragraphs
    assert said.startswith("Perplexity is the exponential of the mean negative log-likelihood per token")
    words = " ".join(run_sections.protocol(run).paragraphs)
    assert "or the paired bootstrap over the documents, cannot tell the two models apart" in words


def test_a_token_that_is_written_is_no_example():
    run = scored_by_perplexity(RUN, 9)
    page = markdown(document(run))
    assert "rows/s" in page
    assert "examples/s" not in page
    assert "examples/s" not in str(compare([run, run]).deployed)
    assert "examples/s" in markdown(document(bert_run()))


def test_retention_of_a_perplexity_is_said_as_what_it_is():
    tile = tiles(scored_by_perplexity(RUN, 9))[2]
    assert tile.label == "retention: the baseline's perplexity over its own"


def test_tokens_are_not_taken_for_texts():
    one, two = scored_by_perplexity(RUN, 5120), scored_by_perplexity(RUN, 3000)
    assert "scored on 5120 tokens of split 'test'" in run_sections.protocol(one).paragraphs[0]
    said = "different tokens of the same test split (5120 and 3000)"
    assert said in differences([one, two])[0]
    with pytest.raises(UsageError) as caught:
        check(contract(one), contract(two), Tolerances())
    assert said in str(caught.value)
