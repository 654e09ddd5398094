import pytest

from compress.core.errors import UsageError
from compress.reporting.compare import compare, differences
from tests.records import (
    TARGET,
    accuracy,
    bert_run,
    change_step,
    failed_run,
    measurement,
    predictions_of,
    truth_of,
)
from tests.terminal import printed


def other_run(wrong=40, **changes):
    truth = truth_of()
    teacher = accuracy(predictions_of(truth, 10), truth, None)
    found = measurement(accuracy(predictions_of(truth, wrong), truth, teacher), 0.3, 12.4, 5.0)
    return change_step(bert_run(run="other", **changes), "export", measurements=(found,))


def elsewhere(run):
    steps = tuple(
        step.model_copy(
            update={
                "measurements": tuple(
                    m.model_copy(update={"fingerprint": "phone"}) for m in step.measurements
                )
            }
        )
        for step in run.steps
    )
    return run.model_copy(update={"steps": steps})


def cells(comparison, title):
    row = next(row for row in comparison.deployed.rows if row.cells[0].text == title)
    return [cell.text for cell in row.cells[1:]]


def test_runs_side_by_side():
    comparison = compare([bert_run(), other_run()])
    assert comparison.warnings == ()
    assert comparison.deployed.columns == ("", "bert_to_tiny-0a1b2c3d4e5f", "other")
    assert cells(comparison, "score") == ["96.4 %", "91.0 %"]
    assert cells(comparison, "score vs. the first run") == ["–", "worse"]
    assert cells(comparison, "size MB") == ["1.61", "1.61"]


def test_models_that_the_data_cannot_tell_apart():
    assert cells(compare([bert_run(), other_run(wrong=17)]), "score vs. the first run") == [
        "–",
        "no difference",
    ]


def test_other_targets_are_refused_and_with_a_flag_only_warned_of():
    runs = [bert_run(), elsewhere(other_run())]
    with pytest.raises(UsageError, match="was measured on") as caught:
        compare(runs)
    assert caught.value.exit_code == 2
    comparison = compare(runs, anyway=True)
    assert len(comparison.warnings) == 1


def retimed(run, p50_ms, *timed):
    """The run whose deployed model was timed at other batch sizes on the same machine."""
    (found,) = run.steps[-1].measurements
    made = measurement(found.accuracy, p50_ms, 12.4, 6.2, timed=timed, machine="m", fingerprint=f"{timed}")
    return change_step(run, "export", measurements=(made,))


def test_latencies_of_one_batch_size_stand_beside_each_other():
    first = retimed(bert_run(), 0.5, (1, "real"))
    second = retimed(other_run(), 0.3, (1, "fixed:128"), (1, "real"), (8, "real"))
    assert differences([first, second]) == ()
    expected = [
        run.steps[-1].measurements[0].latency[place].p50_ms for run, place in ((first, 0), (second, 1))
    ]
    assert cells(compare([first, second]), "p50 ms") == [f"{value:.3f}" for value in expected]
    larger = retimed(other_run(), 0.3, (8, "real"))
    assert differences([first, larger]) == (f"{first.run} was timed at batch size 1, other at batch size 8",)
    assert cells(compare([first, larger], anyway=True), "p50 ms")[1] == "–"
    both = retimed(other_run(), 0.3, (8, "real"), (1, "real"))
    assert differences([first, both]) == (
        f"the peak memory of {first.run} was measured at batch size 1, of other at batch size 8",
    )


def test_other_test_splits_are_refused():
    run = bert_run(truth_of(400), run="smaller")
    assert "different test splits (445 and 400 examples)" in differences([bert_run(), run])[0]
    with pytest.raises(UsageError):
        compare([bert_run(), run])
    assert cells(compare([bert_run(), run], anyway=True), "score vs. the first run") == ["–", "–"]


def scored_on(digest, **changes):
    """The run, of whose test examples this is the digest; their labels are the same."""
    run = bert_run(**changes)
    for step in run.steps:
        found = [
            one.model_copy(update={"accuracy": one.accuracy.model_copy(update={"examples": digest})})
            for one in step.measurements
        ]
        run = change_step(run, step.step, measurements=tuple(found))
    return run


def test_other_examples_with_the_same_labels_are_another_test_split():
    # As two seeds make them of data that is sorted by class.
    one, two = scored_on("a" * 64), scored_on("b" * 64, run="other")
    assert "different test splits (445 and 445 examples)" in differences([one, two])[0]
    assert cells(compare([one, two], anyway=True), "score vs. the first run") == ["–", "–"]
    assert differences([one, scored_on("a" * 64, run="other")]) == ()
    assert differences([one, bert_run(run="of before digests were kept")]) == ()


def test_the_same_split_under_other_label_numbers_is_another_one_only_by_name():
    renamed = bert_run(run="renamed", labels=("a", "b", "c", "d", "e"))
    assert differences([bert_run(), renamed])


def test_a_failed_run_has_a_column_that_says_why():
    comparison = compare([bert_run(), failed_run()])
    assert cells(comparison, "deploys")[1].startswith("step 'prune' failed")
    assert cells(comparison, "p50 ms")[1] == "–"


def test_a_run_beside_itself_gets_a_number():
    assert compare([bert_run(), bert_run(), bert_run()]).deployed.columns[1:] == (
        "bert_to_tiny-0a1b2c3d4e5f",
        "bert_to_tiny-0a1b2c3d4e5f (2)",
        "bert_to_tiny-0a1b2c3d4e5f (3)",
    )


def test_one_run_is_not_a_comparison():
    with pytest.raises(UsageError):
        compare([bert_run()])


def test_terminal():
    shown = printed(compare([bert_run(), other_run()]).table(), width=100)
    assert "no difference" in shown or "worse" in shown
    assert f"on {TARGET}" in " ".join(shown.split())
