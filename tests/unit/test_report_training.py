"""How students were taught, in a table and in curves."""

from __future__ import annotations

from typing import Any

from compress.core.records import RunRecord
from compress.reporting.plots.plots import draw
from compress.reporting.render.document import TrainingPlot
from compress.reporting.render.html import html
from compress.reporting.sections.content import document
from compress.reporting.sections.run_sections import findings
from compress.reporting.sections.training import training
from tests.records import bert_run, change_step, curve, embedding_run

STAGES = [
    {
        "name": "distill, layers",
        "losses": ["hidden", "attention"],
        "examples": 7790,
        "epochs": 3,
        "seconds": 61.0,
    },
    {"name": "distill, answers", "losses": ["logits"], "examples": 1558, "epochs": 1, "seconds": 12.0},
]


def taught(run: RunRecord | None = None, **facts: Any) -> list[tuple[str, str, str]]:
    run = change_step(run or bert_run(), "distill", facts={"parameters": 1, **facts})
    tables = [table for table in training(run).tables if table.caption == "How it was taught"]
    return [tuple(cell.text for cell in row.cells) for table in tables for row in table.rows]  # type: ignore[misc]


def test_stages_in_a_table() -> None:
    assert taught(stages=STAGES) == [
        ("distill", "stage 1: layers", "losses: hidden, attention; 7,790 texts; 3 epochs; 1 min 1 s"),
        ("", "stage 2: answers", "losses: logits; 1,558 texts; 1 epoch; 12.0 s"),
    ]


def test_one_stage_needs_no_name() -> None:
    assert taught(stages=[{"name": "distill", "losses": ["logits"], "epochs": 6.0}]) == [
        ("distill", "stage", "losses: logits; 6 epochs")
    ]


def test_a_stage_that_selects_tokens_says_how_many() -> None:
    stage = {"name": "distill", "losses": ["logits"], "epochs": 6.0, "kept": {"tokens": 5350, "of": 8680}}
    assert taught(stages=[stage]) == [
        ("distill", "stage", "losses: logits; 6 epochs; learnt: 5,350 of 8,680 tokens (61.6 %)")
    ]


def test_who_taught_and_from_what() -> None:
    facts = {
        "shown": {"train": 1558, "unlabeled": 300},
        "teachers": [
            {"name": "minilm", "weight": 0.5, "train_score": 0.981},
            {"name": "bert", "weight": 0.5},
        ],
        "kept": {"examples": 1200, "of": 1558, "confidence": 0.9},
        "assistants": [{"name": "4 layers", "parameters": 4_000_000, "validation_score": 0.97}],
        "generations": [{"validation_score": 0.951}, {"validation_score": 0.953}],
    }
    assert [row[1:] for row in taught(**facts)] == [
        ("data", "train: 1558; unlabeled: 300"),
        ("teacher 1: minilm", "weight: 0.5; accuracy 98.1 % on the training split"),
        ("teacher 2: bert", "weight: 0.5"),
        ("selected", "1,200 of 1,558 texts (77.0 %); confidence: 0.9"),
        ("assistant: 4 layers", "parameters: 4,000,000; accuracy 97.0 % on the validation split"),
        ("generation 1", "accuracy 95.1 % on the validation split"),
        ("generation 2", "accuracy 95.3 % on the validation split"),
    ]


def test_data_free_teaching_says_so() -> None:
    facts = {"data_free": {"shown": "images of a generator", "examples": 20000}}
    run = bert_run(task="image-classification")
    alone = run.model_copy(update={"steps": tuple(s for s in run.steps if s.role != "control")})
    assert taught(alone, **facts) == [
        ("distill", "no training data used", "shown: images of a generator; 20,000 images"),
        (
            "",
            "compared with using training data",
            "not measured; with `control: true` in the profile the same student is also trained on it",
        ),
    ]


def test_what_is_given_up_without_data_is_said_against_the_same_student_with_it() -> None:
    run = bert_run()
    student = next(step for step in run.steps if step.step == "distill")
    control = student.model_copy(
        update={"step": "distill.control", "role": "control", "measurements": run.steps[0].measurements}
    )
    others = tuple(step for step in run.steps if step.role != "control")
    rows = taught(
        run.model_copy(update={"steps": (*others, control)}), data_free={"shown": "sampled token sequences"}
    )
    scores = [
        f"{100 * one.measurements[0].accuracy.metrics[0].value:.1f} %" for one in (student, run.steps[0])
    ]
    assert rows[1] == (
        "",
        "compared with using training data",
        f"accuracy {scores[0]} without it, {scores[1]} for the same student trained on it, on the test split",
    )


def test_warnings_stand_in_the_table() -> None:
    assert taught(warnings=["the student is very small"]) == [
        ("distill", "warning", "the student is very small")
    ]


def test_scores_of_embeddings_are_correlations() -> None:
    assert taught(embedding_run(), generations=[{"validation_score": 0.95}]) == [
        ("distill", "generation", "Spearman correlation 0.950 on the validation split")
    ]


def test_the_weight_of_the_only_teacher_says_nothing() -> None:
    assert taught(teachers=[{"name": "teacher", "weight": 1.0}]) == []
    assert taught(teachers=[{"name": "minilm", "weight": 1.0, "train_score": 0.98}]) == [
        ("distill", "teacher: minilm", "accuracy 98.0 % on the training split")
    ]


def test_later_steps_do_not_say_it_again() -> None:
    run = change_step(bert_run(), "quantize", facts={"parameters": 1, "stages": STAGES})
    assert [table.caption for table in training(run).tables] == ["Training runs"]


def test_what_is_not_there_is_not_shown() -> None:
    assert taught(teachers=[], kept=None) == []
    assert taught(stages="as always") == [("distill", "stage", "as always")]


def test_facts_stand_in_one_table_only() -> None:
    run = change_step(bert_run(), "distill", facts={"parameters": 1, "stages": STAGES, "precision": "fp32"})
    keys = [row.cells[1].text for row in findings(run).tables[0].rows if row.cells[0].text == "distill"]
    assert keys == ["precision"]


def test_stages_stand_behind_each_other_in_one_plot() -> None:
    curves = (curve("distill, layers", 0.8, 4), curve("distill, answers", 0.95, 3))
    run = change_step(bert_run(), "distill", curves=curves, facts={"stages": STAGES})
    section = training(run)
    figure = next(figure for figure in section.figures if figure.caption.startswith("distill:"))
    assert isinstance(figure.plot, TrainingPlot)
    first, second = figure.plot.curves
    assert (first.name, second.name) == ("layers", "answers")
    assert first.steps == (40, 80, 120, 160)
    assert second.steps == second.score_steps == (200, 240, 280)
    assert figure.alt.startswith("distill. layers: the loss goes from 1.59 to 0.578, the validation accuracy")
    names = [row.cells[0].text for row in section.tables[-1].rows]
    assert "distill, layers" in names
    assert "distill, answers" in names
    drawn = draw(figure.plot, "t")
    assert ">layers<" in drawn
    assert ">answers<" in drawn
    assert "How it was taught" in html(document(run))


def test_steps_that_go_on_are_not_moved() -> None:
    one, two = curve("distill, one", 0.8, 4), curve("distill, two", 0.9, 3)
    later = tuple(point.model_copy(update={"step": point.step + 160}) for point in two.points)
    run = change_step(bert_run(), "distill", curves=(one, two.model_copy(update={"points": later})))
    figure = next(figure for figure in training(run).figures if figure.caption.startswith("distill:"))
    assert isinstance(figure.plot, TrainingPlot)
    assert figure.plot.curves[1].steps == (200, 240, 280)


def test_losses_of_other_orders_share_a_plot() -> None:
    high = tuple(
        point.model_copy(update={"train_loss": 900.0}) for point in curve("distill, a", 0.8, 3).points
    )
    curves = (curve("distill, a", 0.8, 3).model_copy(update={"points": high}), curve("distill, b", 0.9, 3))
    run = change_step(bert_run(), "distill", curves=curves)
    figure = next(figure for figure in training(run).figures if figure.caption.startswith("distill:"))
    assert "<svg" in draw(figure.plot, "t")
