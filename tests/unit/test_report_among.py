"""What a row is among the others: what its pass added, what beats it, which answers changed, how sure it is."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.records import Accuracy, RunRecord
from compress.reporting.data.frame import contract, rows
from compress.reporting.data.pareto import dominated_by, dominates, dominators, front
from compress.reporting.plots.plots import draw
from compress.reporting.render.markdown import table as in_markdown
from compress.reporting.render.numbers import MISSING
from compress.reporting.sections.answers import ChangedAnswers, answers, calibration, changed_answers
from compress.reporting.sections.attribution import changes, table
from compress.reporting.sections.calibration import calibration_error, error_of
from compress.reporting.sections.result_sections import passes
from tests.records import accuracy, bert_run, change_step, disturbed_step, embedding_run, failed_run


def with_latency(run: RunRecord, name: str, p50_ms: float) -> RunRecord:
    step = next(step for step in run.steps if step.step == name)
    (found,) = step.measurements
    timed = found.latency[0].model_copy(update={"p50_ms": p50_ms})
    return change_step(run, name, measurements=(found.model_copy(update={"latency": (timed,)}),))


def timed_run() -> RunRecord:
    run = bert_run()
    times = {
        "baseline": 12.0,
        "distill": 2.0,
        "distill (control)": 2.5,
        "prune": 1.5,
        "quantize": 1.0,
        "export": 1.0,
    }
    for name, p50_ms in times.items():
        run = with_latency(run, name, p50_ms)
    return run


def texts(section_table):
    return [[(cell.text, cell.detail) for cell in row.cells] for row in section_table.rows]


@pytest.mark.parametrize("name", ["baseline", "export"])
def test_where_an_end_of_the_whole_is_unknown_nothing_is_a_share_of_it(name: str):
    shown = texts(table(disturbed_step(timed_run(), name)))
    times = {step: cell for (step, _), _, cell, _ in shown}
    assert {share for _, share in times.values()} == {""}
    assert times["prune"][0] == "−0.500"
    assert (times["baseline"][0], times["total"][0]) == (
        ("–", "1.00") if name == "baseline" else ("12.0", "–")
    )
    assert any(share for (_, _, _, (_, share)) in shown)


def test_calibration_error_by_hand():
    # Bins of 0.2: (0.4, 0.6] holds 0.5 and 0.6, one right of two, mean 0.55; (0.8, 1] holds 0.9 and 1.0, both right.
    error = calibration_error([0.5, 0.6, 0.9, 1.0], [True, False, True, True], bins=5)
    assert error == pytest.approx(0.5 * abs(0.5 - 0.55) + 0.5 * abs(1 - 0.95))
    assert calibration_error([1.0, 1.0], [True, True]) == 0
    assert calibration_error([1.0, 1.0], [False, False]) == 1
    assert calibration_error([0.0], [False]) == 0


def test_right_ends_belong_to_their_bin():
    # 1/3 is the upper end of the fifth of 15 bins: together with 0.3, not with 0.36.
    assert calibration_error([1 / 3, 0.3, 0.36], [True, False, False]) == pytest.approx(
        (abs(1 - (1 / 3 + 0.3)) + 0.36) / 3
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 10_000).map(lambda n: n / 10_000), st.booleans()), min_size=1, max_size=60
    )
)
def test_calibration_error_against_numpy(pairs):
    confidence, hits = (np.array(series, float) for series in zip(*pairs, strict=True))
    edges = np.linspace(0, 1, 16)
    expected = 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low + 1e-12) & (confidence <= high + 1e-12) | ((low == 0) & (confidence == 0))
        if inside.any():
            expected += inside.mean() * abs(hits[inside].mean() - confidence[inside].mean())
    # A value on an edge may fall on either side of it by rounding, in numpy or here.
    on_edge = np.isclose(confidence * 15, np.round(confidence * 15), atol=1e-9) & (confidence < 1)
    if not (on_edge & (confidence > 0)).any():
        assert calibration_error(confidence.tolist(), [bool(hit) for hit in hits]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("confidence", "hits"), [([], []), ([0.5], [True, False]), ([1.2], [True]), ([math.nan], [True])]
)
def test_what_is_no_calibration(confidence, hits):
    with pytest.raises(ValueError, match="probabilit"):
        calibration_error(confidence, hits)


def test_old_records_have_no_calibration_and_are_read():
    body = bert_run().steps[0].measurements[0].accuracy.model_dump(mode="json")
    del body["confidence"]
    assert error_of(Accuracy.model_validate(body)) is None
    assert error_of(None) is None
    assert calibration(bert_run()).empty
    assert contract(bert_run())["rows"][0]["calibration_error"] is None


def sure_run() -> RunRecord:
    """All probabilities 0.9: ten of 445 wrong before, 16 after."""
    run = bert_run()
    for step in run.steps:
        (found,) = step.measurements
        sure = found.accuracy.model_copy(update={"confidence": (0.9,) * 445})
        run = change_step(run, step.step, measurements=(found.model_copy(update={"accuracy": sure}),))
    return run


def test_calibration_before_and_after_each_pass():
    section = calibration(sure_run())
    assert "Guo et al. 2017" in section.paragraphs[0]
    said = [[cell[0] for cell in line] for line in texts(section.tables[0])]
    assert said[0] == ["baseline", "90.0 %", "97.8 %", "7.8 %", "–"]
    assert said[1] == ["distill", "90.0 %", "96.9 %", "6.9 %", "−0.9"]
    assert said[2] == ["distill (control)", "90.0 %", "91.2 %", "1.2 %", "–"]
    assert said[-1] == ["export", "90.0 %", "96.4 %", "6.4 %", "0.0"]
    assert contract(sure_run())["rows"][-1]["calibration_error"] == pytest.approx(429 / 445 - 0.9)


def test_the_changes_sum_to_the_whole():
    made = changes(timed_run())
    names = ("score_change", "latency_p50_change_ms", "size_change_mb")
    assert made[0] == dict.fromkeys(names)
    assert made[2] == dict.fromkeys(names)  # the control stands beside the pipeline
    assert [change["latency_p50_change_ms"] for change in made] == [None, -10.0, None, -0.5, -0.5, 0.0]
    assert [
        change["size_change_mb"] for change in made if change["size_change_mb"] is not None
    ] == pytest.approx([6.24 - 90.95, 5.98 - 6.24, 1.61 - 5.98, 0.0])
    totals = [sum(change[name] or 0 for change in made) for name in names]
    assert totals == pytest.approx([(429 - 435) / 445, 1.0 - 12.0, 1.61 - 90.95])


def test_the_table_of_what_each_pass_added():
    said = texts(table(timed_run()))
    assert said[0] == [("baseline", ""), ("97.8 %", ""), ("12.0", ""), ("91.0", "")]
    assert said[1] == [("distill", ""), ("−0.9", ""), ("−10.0", "91 %"), ("−84.7", "95 %")]
    assert said[2] == [("prune", ""), ("−0.2", ""), ("−0.500", "5 %"), ("−0.260", "0 %")]
    assert said[4] == [("export", ""), ("0.0", ""), ("0", ""), ("0", "")]
    assert said[-1] == [("total", ""), ("96.4 %", ""), ("1.00", ""), ("1.61", "")]


def test_a_pass_that_was_not_measured_leaves_its_change_to_the_next():
    run = change_step(timed_run(), "prune", measurements=(), size=None)
    made = changes(run)
    assert [change["latency_p50_change_ms"] for change in made] == [None, -10.0, None, None, -1.0, 0.0]


def test_runs_that_failed_have_their_part_of_it():
    assert len(changes(failed_run())) == len(failed_run().steps)
    assert [row["dominated_by"] for row in contract(failed_run())["rows"]][-1] is None


COSTS = st.tuples(*[st.integers(0, 4).map(float)] * 3)


@given(st.lists(st.one_of(st.none(), COSTS), max_size=12))
def test_the_front_against_brute_force(points):
    found = dominators(points)
    for point, beaten in zip(points, found, strict=True):
        if point is None:
            assert beaten == ()
            continue
        better = [
            other
            for other in points
            if other is not None
            and all(a <= b for a, b in zip(other, point, strict=True))
            and any(a < b for a, b in zip(other, point, strict=True))
        ]
        assert bool(beaten) == bool(better)
        for index in beaten:
            assert points[index] in better
            assert found[index] == ()


def test_equal_points_do_not_dominate_each_other():
    assert not dominates((1.0, 2.0), (1.0, 2.0))
    assert dominates((1.0, 2.0), (1.0, 3.0))
    assert not dominates((1.0, 2.0), (0.0, 3.0))


def test_the_table_and_plot_of_the_front():
    run = timed_run()
    assert dominated_by(run) == [(), (), ("distill", "prune", "quantize", "export"), (), (), ()]
    section = front(run)
    verdicts = [line[-1][0] for line in texts(section.tables[0])]
    assert verdicts[2] == "dominated by distill, prune, quantize, export"
    assert set(verdicts) - {verdicts[2]} == {"on the front"}
    (figure,) = section.figures
    assert [point.on_front for point in figure.plot.points] == [True, True, False, True, True, True]
    svg = draw(figure.plot, "front")
    assert "quantize 1.61 MB, export 1.61 MB" in svg
    assert "distill (control) 6.24 MB" in svg
    assert "distill (control) 6.24 MB, dominated" in figure.alt
    assert list(rows(run)["dominated_by"]) == ["", "", "distill, prune, quantize, export", "", "", ""]
    assert front(run.model_copy(update={"steps": run.steps[:1]})).empty


def answered(predictions, **changes) -> Accuracy:
    return accuracy(predictions, (0, 1, 2, 3, 4, 0), None, **changes)


def test_changed_answers_by_hand():
    before, after = answered((0, 1, 0, 0, 4, 1)), answered((1, 1, 2, 1, 0, 1))
    assert changed_answers(before, after) == ChangedAnswers(fixed=(2,), broken=(0, 4), other=(3,))
    assert changed_answers(before, None) is None
    assert changed_answers(before, after.model_copy(update={"truth": (0, 0, 0, 0, 0, 0)})) is None


def test_examples_of_changed_answers():
    run = bert_run()
    predictions = {"baseline": (0, 1, 0, 0, 4, 1), "export": (1, 1, 2, 1, 0, 1)}
    for name, made in predictions.items():
        (found,) = next(step for step in run.steps if step.step == name).measurements
        sure = answered(made, confidence=(0.5, 0.9, 0.7, 0.4, 0.8, 0.6))
        run = change_step(run, name, measurements=(found.model_copy(update={"accuracy": sure}),))
    counted, broken, fixed = answers(run).tables
    assert [cell[0] for cell in texts(counted)[-1]] == ["export", "1", "2", "1"]
    assert [[cell[0] for cell in line] for line in texts(broken)] == [
        ["4", "tech", "tech", "business", "80.0 %"],
        ["0", "business", "business", "entertainment", "50.0 %"],
    ]
    assert [cell[0] for cell in texts(fixed)[0]] == ["2", "politics", "business", "politics", "70.0 %"]
    last = contract(run)["rows"][-1]
    assert [last[f"answers_{name}"] for name in ("fixed", "broken", "otherwise_wrong")] == [1, 2, 1]


def test_examples_are_shown_by_the_beginning_of_their_text():
    run = bert_run()
    for name, made in {"baseline": (0, 1, 0, 0, 4, 1), "export": (1, 1, 2, 1, 0, 1)}.items():
        (found,) = next(step for step in run.steps if step.step == name).measurements
        run = change_step(run, name, measurements=(found.model_copy(update={"accuracy": answered(made)}),))
    shown = answers(run.model_copy(update={"excerpts": {4: "<b>a | b"}}))
    _, broken, fixed = shown.tables
    assert broken.columns[:3] == ("Example", "text", "true label")
    assert [cell[0] for line in texts(broken) for cell in line[:2]] == ["0", MISSING, "4", "<b>a | b"]
    assert "text" not in fixed.columns
    assert "&lt;b&gt;a \\| b" in in_markdown(broken)


def test_many_changed_answers_are_cut_and_old_records_show_no_probability():
    truth = (0,) * 40
    run = bert_run(truth=truth)
    for name, wrong in (("baseline", 0), ("export", 15)):
        (found,) = next(step for step in run.steps if step.step == name).measurements
        made = accuracy((1,) * wrong + (0,) * (40 - wrong), truth, None)
        run = change_step(run, name, measurements=(found.model_copy(update={"accuracy": made}),))
    broken = answers(run).tables[1]
    assert broken.caption == "Newly wrong (the first 10 of 15)"
    assert broken.columns == ("Example", "true label", "baseline", "deployed")
    assert [line[0][0] for line in texts(broken)] == [str(n) for n in range(10)]


def test_embeddings_have_no_answers():
    assert answers(embedding_run()).empty
    assert calibration(embedding_run()).empty
    assert contract(embedding_run())["rows"][-1]["answers_fixed"] is None
    assert contract(embedding_run())["rows"][-1]["targets"][0]["hits"] is None


def test_each_target_has_its_front_and_its_latencies():
    """On the phone the step before the last is the faster one."""
    run = bert_run()
    there = {"prune": 1.0, "quantize": 2.0, "export": 2.0}
    for step in run.steps:
        (found,) = step.measurements
        timed = found.latency[0]
        p50 = there.get(step.step, 30.0)
        phone = found.model_copy(
            update={"target": "phone", "latency": (timed.model_copy(update={"p50_ms": p50}),)}
        )
        run = change_step(run, step.step, measurements=(found, phone))
    run = run.model_copy(update={"targets": (*run.targets, "phone")})
    section = front(run)
    here, phone_table = section.tables
    assert here.caption == f"Every step and variant on {run.targets[0]}"
    assert phone_table.caption == "Every step and variant on phone"
    assert [line[2][0] for line in texts(phone_table)][-3:] == ["1.00", "2.00", "2.00"]
    assert "on phone" in section.figures[1].caption
    shown = [figure.caption for figure in passes(run).figures]
    assert [caption.partition(":")[0] for caption in shown] == [
        "Accuracy",
        f"Median latency on {run.targets[0]}",
        "Median latency on phone",
        "Size on disk",
    ]
    assert "quantize: ×2.00" in passes(run).figures[2].alt
    for figure in (*section.figures, *passes(run).figures):
        assert draw(figure.plot, "plot").startswith("<svg")
