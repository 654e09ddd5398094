"""The report of sentence encoders and of image classifiers: the right words, and no confusion tables."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from compress.core.records import Accuracy, Limit, RunRecord
from compress.reporting.compare import compare, differences
from compress.reporting.data.paired import PairedTest, paired_test, retention_interval
from compress.reporting.render.document import Scatter, Waterfall
from compress.reporting.render.markdown import markdown
from compress.reporting.render.scores import metric_format
from compress.reporting.render.terminal import RunTable, budget_lines, summary_lines
from compress.reporting.render.write import write_report
from compress.reporting.sections import classes, headline, result_sections, run_sections
from compress.reporting.sections.content import document
from tests.records import bert_run, change_step, embedding_accuracy, embedding_run, measurement
from tests.terminal import printed


def test_a_metric_in_words_and_numbers() -> None:
    accuracy, spearman = metric_format("accuracy"), metric_format("spearman")
    assert (accuracy.value(0.9412), spearman.value(0.9412), spearman.value(None)) == ("94.1 %", "0.941", "–")
    assert (accuracy.range(0.92, 0.95), spearman.range(0.92, 0.95)) == ("92.0–95.0 %", "0.920–0.950")
    assert (accuracy.change(-0.0123), spearman.change(-0.0123)) == ("−1.2", "−0.012")
    assert (accuracy.axis_label, spearman.axis_label) == ("accuracy, %", "Spearman correlation")
    assert (accuracy.change_label, spearman.change_label) == ("accuracy, points", "Spearman correlation")
    assert (accuracy.title, spearman.title) == ("Accuracy", "Spearman correlation")
    assert metric_format("recall_at_10").value(0.6) == "60.0 %"
    assert metric_format("recall_at_10").words == "recall@10"


def test_the_table_of_steps_reads_correlations() -> None:
    (steps,) = result_sections.steps(embedding_run()).tables
    assert steps.columns[1] == "Spearman correlation"
    rows = {row.cells[0].text: row.cells for row in steps.rows}
    assert (rows["baseline"][1].text, rows["baseline"][2].text) == ("1.000", "100.0 %")
    assert (rows["export"][1].text, rows["export"][1].detail) == ("0.941", "0.937–0.945")
    assert (rows["export"][2].text, rows["export"][2].detail) == ("94.1 %", "93.7–94.5 %")


def test_passes_are_told_apart_by_their_intervals() -> None:
    chain, controls, added = result_sections.passes(embedding_run()).tables
    assert chain.columns[1] == "Spearman correlation"
    changes = [(row.cells[0].text, row.cells[1].text, row.cells[1].detail) for row in chain.rows]
    assert changes == [
        ("distill", "−0.048", ""),
        ("prune", "−0.001", "no difference"),
        ("quantize", "−0.010", ""),
        ("export", "0.000", "no difference"),
    ]
    (control,) = controls.rows
    assert [cell.text for cell in control.cells] == ["distill (control)", "distill", "−0.151", "worse"]
    assert [cell.text for cell in added.rows[1].cells][:2] == ["distill", "−0.048"]


def test_plots_are_in_correlations() -> None:
    scatter, _ = (figure.plot for figure in result_sections.score_plots(embedding_run()).figures)
    assert isinstance(scatter, Scatter)
    assert scatter.y_label == "Spearman correlation"
    assert scatter.points[-1].y == pytest.approx((0.941, 0.937, 0.945))
    fall = result_sections.passes(embedding_run()).figures[0]
    assert isinstance(fall.plot, Waterfall)
    assert fall.plot.axis_label == "Spearman correlation, from the baseline"
    assert [change.text for change in fall.plot.changes] == ["−0.048", "−0.001", "−0.010", "0.000"]
    assert [change.is_significant for change in fall.plot.changes] == [True, False, True, False]


def test_there_are_no_classes_to_confuse() -> None:
    assert classes.classes(embedding_run()).empty
    words = markdown(document(embedding_run()))
    assert "McNemar" not in words
    assert "accuracy" not in words.replace("accuracy_record", "")


def test_the_verdict_speaks_of_similarities() -> None:
    assert headline.verdicts(embedding_run())[1] == (
        "The similarities of 'export' rank the test texts differently from the baseline's: their Spearman correlation "
        "is 0.941, with a 95 % interval of 0.937–0.945."
    )
    same = embedding_accuracy(0.9998, 0.99, margin=0.0002)
    words = headline.verdicts(_exported(embedding_run(), same))[1]
    assert words.startswith(
        "The similarities of 'export' rank the test texts as the baseline's do, up to rounding"
    )
    tile = headline.tiles(embedding_run())[2]
    assert (tile.value, tile.label) == ("94.1 %", "of the baseline's Spearman correlation kept")
    assert tile.detail == "0.941 instead of 1.000; 95 % interval 93.7–94.5 %"


def test_given_scores_are_tested() -> None:
    scored = embedding_accuracy(
        0.81, 0.6, "scores", retention=0.985, retention_low=0.97, retention_high=0.999, p_value=0.03
    )
    run = _exported(embedding_run(), scored)
    assert headline.verdicts(run)[1] == (
        "The Spearman correlation of 'export' is significantly worse than the baseline's (paired bootstrap over the "
        "pairs, p = 0.03)."
    )
    assert retention_interval(embedding_accuracy(0.82, 1, "scores"), scored) == (0.97, 0.999)


def test_the_budget_limits_a_correlation() -> None:
    run = embedding_run()
    (row,) = headline.budget(run).tables[0].rows
    assert [cell.text for cell in row.cells] == ["score", "export", "≥ 0.930", "0.941", "met"]
    assert str(budget_lines(run.limits, run.metric)[0]).endswith(
        "export: score 0.941, the limit is at least 0.930"
    )
    assert headline.limit_words(Limit(step="export", name="score", limit=0.93, value=0.9, held=False)) == (
        "export: score 90.0 %, the limit is at least 93.0 %"
    )


def test_the_protocol_and_the_metrics_say_what_was_compared() -> None:
    run = embedding_run()
    words = " ".join(run_sections.protocol(run).paragraphs)
    assert "scored on 2000 texts of split 'test'" in words
    assert "that of the correlation, cannot tell the two models apart" in words
    section = run_sections.metrics(run)
    assert section.tables[0].columns == ("Step", "Spearman correlation", "recall@10")
    assert section.tables[0].rows[-1].cells[2].text == "62.1 %"
    assert "so the baseline has 1 by definition" in section.paragraphs[0]
    pairs = _exported(run, embedding_accuracy(0.81, 0.6, "scores"), every=True)
    assert "1379 pairs of texts" in run_sections.protocol(pairs).paragraphs[0]
    assert "their given scores" in run_sections.metrics(pairs).paragraphs[0]
    assert run_sections.data(run).paragraphs[0] == "The texts have no labels."


def test_the_terminal_shows_correlations() -> None:
    lines = printed(RunTable(embedding_run()), width=120).splitlines()
    assert lines[1].split()[:3] == ["step", "spearman", "kept"]
    assert lines[-1].split()[:3] == ["export", "0.941", "94.1"]
    assert any("0.941, the limit is at least 0.930" in str(line) for line in summary_lines(embedding_run()))


def test_two_models_on_other_texts_are_not_told_apart() -> None:
    one, two = embedding_accuracy(0.95, 0.6), embedding_accuracy(0.9, 0.5)
    found = paired_test(one, two)
    assert found is not None
    assert (found.verdict, found.is_significant, found.p_value) == ("worse", True, None)
    assert paired_test(two, one).verdict == "better"  # type: ignore[union-attr]
    assert paired_test(one, two.model_copy(update={"examples": "f" * 64})) is None
    assert paired_test(one, embedding_accuracy(0.9, 0.5, "scores")) is None
    assert paired_test(one, embedding_accuracy(0.9501, 0.5, margin=0.0)).verdict == "no difference"  # type: ignore[union-attr]


def test_what_was_paired_with_the_baseline_tells_more_than_intervals_that_overlap() -> None:
    def taught(value: float, retention: float, verdict: str | None) -> Accuracy:
        said = {"verdict": verdict, "p_value": None if verdict is None else 0.001, "retention": retention}
        ends = (
            {} if verdict is None else {"retention_low": retention - 0.01, "retention_high": retention + 0.01}
        )
        return embedding_accuracy(value, 0.5, margin=0.1).model_copy(update={**said, **ends})

    baseline, one, two = taught(0.95, 1.0, None), taught(0.92, 0.97, "worse"), taught(0.89, 0.94, "worse")
    assert paired_test(baseline, one) == PairedTest("worse", 0.001)
    assert paired_test(one, two) == PairedTest("worse", None)
    assert paired_test(two, one) == PairedTest("better", None)
    assert paired_test(two, taught(0.9, 0.95, "worse")) == PairedTest("no difference", None)


def test_runs_of_embeddings_side_by_side() -> None:
    first = embedding_run()
    second = _exported(embedding_run(run="other-1"), embedding_accuracy(0.97, 0.7))
    lines = {row.cells[0].text: row.cells[1:] for row in compare([first, second]).deployed.rows}
    assert [cell.text for cell in lines["score"]] == ["0.941", "0.970"]
    assert lines["score vs. the first run"][1].text == "better"
    assert lines["baseline score"][0].text == "1.000"
    elsewhere = _exported(second, embedding_accuracy(0.97, 0.7, examples="f" * 64))
    assert differences([first, elsewhere]) == (
        f"{first.run} and other-1 were scored on different test splits (2000 and 2000 examples)",
    )
    taught = change_step(second, "baseline", key="another")
    assert differences([first, taught]) == (
        f"{first.run} and other-1 were scored against the similarities of different teachers",
    )


def test_a_report_of_embeddings_is_written(tmp_path: Path) -> None:
    paths = write_report(embedding_run(), tmp_path)
    page = paths.html.read_text()
    assert "Spearman correlation against latency and size" in page
    assert "confusion" not in page
    found = json.loads(paths.json.read_text())
    assert found["metric"] == "spearman"
    assert [row["score"] for row in found["rows"]][-1] == 0.941
    measured = found["rows"][-1]["targets"][0]
    assert measured["examples"] == 2000
    assert [metric["name"] for metric in measured["metrics"]] == ["spearman", "recall_at_10"]
    assert pd.read_csv(paths.csv)["score"].tolist()[0] == 1.0


def test_a_report_of_images_speaks_of_images(tmp_path: Path) -> None:
    run = bert_run(task="image-classification")
    steps = tuple(
        step.model_copy(
            update={
                "measurements": tuple(
                    one.model_copy(update={"tokenization_ms": None}) for one in step.measurements
                )
            }
        )
        for step in run.steps
    )
    run = run.model_copy(update={"steps": steps})
    timings = run_sections.timings(run).tables[0]
    assert "lengths" not in timings.columns
    assert {len(row.cells) for row in timings.rows} == {len(timings.columns)}
    assert timings.columns[6] == "verdict"
    assert timings.text_columns == frozenset({6})
    words = run_sections.protocol(run)
    assert "scored on 445 images" in words.paragraphs[0]
    assert "Reading images is not included in the latencies." in words.paragraphs[0]
    assert "token" not in words.paragraphs[0]
    assert words.tables[0].rows[0].cells[0].detail == "batch 1"
    assert not classes.classes(run).empty
    write_report(run, tmp_path)


def _exported(run: RunRecord, scores: object, every: bool = False) -> RunRecord:
    """The run with other scores of what it deploys, or of all its steps."""
    for step in run.steps:
        if every or step.step == "export":
            changed = [one.model_copy(update={"accuracy": scores}) for one in step.measurements]
            run = change_step(run, step.step, measurements=tuple(changed))
    return run


def test_scores_on_further_targets_read_as_correlations() -> None:
    run = embedding_run(targets=("cpu-onnxruntime-2t", "phone"))
    extra = measurement(embedding_accuracy(0.94, 0.6), 0.5, 9.0, 5.0, target="phone")
    run = change_step(run, "export", measurements=(*run.steps[-1].measurements, extra))
    (made,) = run_sections.targets(run).tables
    assert made.columns[1] == "Spearman correlation"
    assert made.rows[0].cells[1].text == "0.940"
