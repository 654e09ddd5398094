import pytest

from compress.core.records import Limit
from compress.reporting.data.row import partner_of
from compress.reporting.render.document import Waterfall
from compress.reporting.sections import classes, facts, headline, result_sections, run_sections
from compress.reporting.sections.content import document
from tests.records import (
    TARGET,
    accuracy,
    bert_run,
    change_step,
    failed_run,
    latency,
    measurement,
    missed_run,
    predictions_of,
    truth_of,
)


def texts(section):
    return [[cell.text for cell in row.cells] for table in section.tables for row in table.rows]


def deploy(predictions, truth=None, p50_ms=0.49, baseline_ms=12.4, labels=5):
    """A run whose export predicts `predictions`, the teacher missing 10 examples."""
    truth = truth_of() if truth is None else truth
    teacher = accuracy(predictions_of(truth, 10, labels), truth, None)
    found = measurement(accuracy(predictions, truth, teacher), p50_ms, baseline_ms, 6.2)
    return change_step(
        bert_run(truth, [f"label {n}" for n in range(labels)]), "export", measurements=(found,)
    )


def test_headline_numbers():
    size, speed, retention, memory = headline.tiles(bert_run())
    assert (size.value, size.label) == ("56.5×", "smaller")
    assert size.detail == "1.61 MB instead of 91.0 MB on disk"
    assert speed.label == "faster"
    assert "95 % interval" in speed.detail
    assert (retention.value, retention.label) == ("98.6 %", "of the baseline's accuracy kept")
    assert (memory.value, memory.label) == ("19.0×", "less memory")


def test_a_slower_and_larger_model_is_called_that():
    found = deploy(predictions_of(truth_of(), 12), p50_ms=20.0)
    run = change_step(found, "export", size=found.steps[0].size.model_copy(update={"model_mb": 181.9}))
    tiles = headline.tiles(run)
    assert (tiles[0].value, tiles[0].label, tiles[0].tone) == ("2.00×", "larger", "bad")
    assert (tiles[1].label, tiles[1].tone) == ("slower", "bad")


@pytest.mark.parametrize("size_mb", [91.0, 91.2])
def test_equal_sizes_are_no_gain(size_mb: float):
    found = deploy(predictions_of(truth_of(), 12))
    sizes = [found.steps[0].size.model_copy(update={"model_mb": value}) for value in (91.0, size_mb)]
    run = change_step(found, "export", size=sizes[1])
    run = run.model_copy(
        update={"steps": (run.steps[0].model_copy(update={"size": sizes[0]}), *run.steps[1:])}
    )
    tile = headline.tiles(run)[0]
    assert (tile.value, tile.label, tile.tone) == ("same size", "as the baseline", "quiet")


def test_no_difference_is_said_plainly():
    run = deploy(predictions_of(truth_of(), 10), p50_ms=12.4)
    export = run.steps[-1].measurements[0]
    steady = latency(12.4, 12.4, verdict="no difference", speedup=1.001, speedup_low=0.99, speedup_high=1.01)
    run = change_step(run, "export", measurements=(export.model_copy(update={"latency": (steady,)}),))
    assert headline.tiles(run)[1].value == "no difference"
    said = headline.verdicts(run)
    told = "No difference: the test split cannot tell the accuracy of 'export' from the baseline's"
    assert f"{told} (exact McNemar test, p = 1)." in said
    assert "No difference: the timings cannot tell 'export' from the baseline." in said


def test_verdict_on_a_missed_budget():
    run = missed_run()
    assert headline.status_words(run) == ("Budget missed", "bad")
    assert headline.verdicts(run)[0] == "Missed: export: size_mb 1.61 MB, the limit is at most 1.50 MB."
    assert texts(headline.budget(run))[1] == ["size_mb", "export", "≤ 1.50 MB", "1.61 MB", "missed"]


def test_a_limit_missed_by_a_hair_shows_enough_digits_to_see_it():
    limit = Limit(step="export", name="retention", limit=0.97, value=0.96998, held=False)
    assert headline.limit_words(limit) == "export: retention 96.998 %, the limit is at least 97.000 %"
    limit = Limit(step="export", name="latency_p50_ms", limit=1.0, value=1.0, held=True)
    assert headline.limit_words(limit) == "export: latency_p50_ms 1.00 ms, the limit is at most 1.00 ms"


def test_the_table_of_steps_marks_what_is_deployed():
    (table,) = result_sections.steps(bert_run()).tables
    assert [row.kind for row in table.rows] == ["baseline", "step", "control", "step", "step", "deployed"]
    assert all(len(row.cells) == len(table.columns) for row in table.rows)


def test_each_pass_is_set_against_the_model_it_was_given():
    section = result_sections.passes(bert_run())
    distill, prune, quantize, export = section.tables[0].rows
    assert [cell.text for cell in distill.cells][1] == "−0.9"
    assert distill.cells[3].text == "÷14.6"
    assert prune.cells[0].detail == "after distill"
    assert quantize.cells[5].text == "same"
    assert export.cells[2].text == "no difference"
    (control,) = section.tables[1].rows
    assert [cell.text for cell in control.cells] == ["distill (control)", "distill", "−5.6", "worse"]


def test_a_control_is_set_against_its_own_step_wherever_it_stands():
    run = change_step(bert_run(), "distill (control)", step="distill.control", kind="distill.control")
    control = next(step for step in run.steps if step.role == "control")
    others = [step for step in run.steps if step is not control]
    for steps in (others, [others[0], control, *others[1:]]):
        found = partner_of(run.model_copy(update={"steps": tuple(steps)}), control)
        assert found is not None
        assert found.step == "distill"
    second = control.model_copy(update={"step": "distill.2.control"})
    later = run.steps[1].model_copy(update={"step": "distill.2"})
    found = partner_of(run.model_copy(update={"steps": (*run.steps, second, later)}), second)
    assert found is later
    alone = run.steps[0].model_copy(update={"step": "baseline.fp16", "role": "variant"})
    assert partner_of(run, alone) is run.steps[0]


def test_waterfalls_start_where_the_pass_before_left_off():
    score, latency_plot, size = [figure.plot for figure in result_sections.passes(bert_run()).figures]
    for plot in (score, latency_plot, size):
        assert isinstance(plot, Waterfall)
        for before, after in zip(plot.changes, plot.changes[1:], strict=False):
            assert before.after == after.before
    assert score.changes[0].before == 0
    assert score.changes[-1].after == pytest.approx(100 * (429 - 435) / 445)
    assert size.changes[0].before == 90.95
    assert not score.changes[-1].is_significant
    assert size.changes[0].is_significant


def test_classes_that_got_worse_with_their_confusions():
    truth = truth_of(445)
    teacher = predictions_of(truth, 10)
    confused = tuple(
        3 if true == 1 and n < 200 else old for n, (true, old) in enumerate(zip(truth, teacher, strict=True))
    )
    section = classes.classes(deploy(confused))
    worst = section.tables[0].rows[0]
    assert worst.cells[0].text == "label 1"
    assert worst.cells[5].text == "worse"
    pair = section.tables[1].rows[0]
    assert [cell.text for cell in pair.cells][:2] == ["label 1", "label 3"]
    assert int(pair.cells[3].text) - int(pair.cells[2].text) >= 39
    assert "1 of them significantly" in section.paragraphs[0]


def test_no_class_got_worse():
    truth = truth_of()
    section = classes.classes(deploy(predictions_of(truth, 9)))
    assert section.tables == ()
    assert section.paragraphs == ("No class has a lower recall than in the baseline.",)


def test_many_classes_are_cut_and_the_cut_is_said():
    truth = truth_of(3000, 150)
    run = deploy(predictions_of(truth, 400, 150), truth, labels=150)
    table = classes.classes(run).tables[0]
    assert len(table.rows) == 15
    assert "the first 15 of" in table.caption


def test_an_unsteady_machine_is_called_that():
    run = bert_run()
    found = run.steps[0].measurements[0]
    drifting = found.latency[0].model_copy(update={"verdict": "slower", "speedup": 0.9})
    run = change_step(run, "baseline", measurements=(found.model_copy(update={"latency": (drifting,)}),))
    assert any("not steady" in words for words in run_sections.protocol(run).paragraphs)
    assert not any("not steady" in words for words in run_sections.protocol(bert_run()).paragraphs)


def test_the_protocol_in_words():
    words = run_sections.protocol(bert_run()).paragraphs[0]
    assert words.startswith(f"{TARGET}: scored on 445 texts of split 'test' at batch size 1.")
    assert "batches of 8 at real lengths, 118.4 tokens on average, 40 rounds" in words
    assert "Tokenization is not included in the latencies; it takes a further 0.210 ms per example" in words


def test_the_data_and_what_loading_did_to_it():
    section = run_sections.data(bert_run(notes=("3 texts stood twice and were dropped",)))
    assert "3 texts stood twice and were dropped" in section.paragraphs
    assert section.paragraphs[0].startswith("5 labels: business, ")
    assert texts(section) == [["train", "1,558"], ["validation", "222"], ["test", "445"]]


def test_facts_are_flattened():
    assert facts.flatten({"a": {"b": 1, "c": [1.0, None, True]}, "d": "x"}) == [
        ("a.b", "1"),
        ("a.c", "1, –, yes"),
        ("d", "x"),
    ]
    assert facts.value_words(list(range(100))).endswith("… (100 in all)")


def test_sections_of_a_complete_run():
    keys = [section.key for section in document(bert_run()).sections]
    words = (
        "budget steps plane passes front classes answers timings memory training findings protocol data "
        "environment profile"
    )
    assert " ".join(keys) == words


@pytest.mark.parametrize("count", range(4))
def test_a_failed_run_has_a_document_at_any_step(count):
    run = failed_run()
    steps = (*run.steps[:count], run.steps[-1])
    content = document(run.model_copy(update={"steps": steps}))
    assert content.status == "Failed"
    assert content.tiles == ()
    assert content.verdicts[0].startswith("Step 'prune' failed: ")


def test_a_variant_that_another_target_measures_has_no_numbers_here():
    run = change_step(bert_run(), "distill (control)", role="variant", measurements=())
    rows = {row.cells[0].text: row for row in result_sections.steps(run).tables[0].rows}
    assert "distill (control)" in " ".join(rows)
    assert document(run).sections
