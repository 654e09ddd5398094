"""What pruning for a target predicted, and what an export asks of phones: in the page and in the terminal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compress.core.records import RunRecord
from compress.passes.export.sections import phone_lines, phones
from compress.passes.prune.sections import pruned_to, pruned_to_lines
from compress.reporting.render.document import Section
from compress.reporting.render.html import html
from compress.reporting.render.markdown import markdown
from compress.reporting.render.terminal import summary_lines
from compress.reporting.sections.content import document
from compress.reporting.sections.run_sections import findings
from tests.records import bert_run, change_step

TARGET = {
    "speedup": 2.0,
    "predicted_ms": 2.1,
    "predicted_speedup": 2.0,
    "measured_speedup": 1.95,
    "before_ms": 4.3,
    "measured_ms": 2.205,
    "table": {"heads": [[1, 0.1], [12, 0.9]], "rest_ms": 0.05},
}
MOBILE = {
    "opset": 20,
    "dynamic_inputs": ["input_ids"],
    "nodes": 63,
    "nnapi": {"nodes": 4, "partitions": 3, "nodes_fixed": 40, "partitions_fixed": 7, "verdict": "no"},
    "coreml": {"nodes": 5, "partitions": 2, "nodes_fixed": 60, "partitions_fixed": 1, "verdict": "yes"},
}
OPERATORS = {"ai.onnx": ["Add", "Gather"], "com.microsoft": ["QAttention"]}


def pruned(**changes: Any) -> RunRecord:
    facts = {"parameters": 1, "target": {**TARGET, **changes}}
    run = change_step(bert_run(), "prune", facts=facts)
    # As later steps keep what is known of their model.
    return change_step(run, "quantize", facts=facts)


def exported() -> RunRecord:
    return change_step(bert_run(), "export", facts={"mobile": MOBILE, "operators": OPERATORS, "golden": 8})


def cells(section: Section) -> list[list[str]]:
    return [[cell.text for cell in row.cells] for table in section.tables for row in table.rows]


def test_predicted_beside_measured():
    assert cells(pruned_to(pruned())) == [
        ["prune", "2.00× faster", "4.30 ms", "2.10 ms", "2.21 ms", "1.05×"],
    ]
    (line,) = pruned_to_lines(pruned())
    assert line == "prune: 2.10 ms predicted, 2.21 ms measured (1.05×), 4.30 ms before; asked: 2.00× faster"


def test_a_prediction_that_was_off_is_marked():
    tones = [
        pruned_to(pruned(measured_ms=ms)).tables[0].rows[0].cells[-1].tone for ms in (1.9, 1.88, 2.3, 2.32)
    ]
    assert tones == ["good", "bad", "good", "bad"]


def test_a_size_has_no_latency():
    run = change_step(bert_run(), "prune", facts={"target": {"size_mb": 5.0, "weights_mb": 4.9}})
    assert cells(pruned_to(run)) == [
        ["prune", "at most 5.00 MB of weights", "–", "–", "4.90 MB of weights", "–"]
    ]
    assert pruned_to(run).paragraphs == ()
    assert pruned_to_lines(run) == []


def test_phones_are_told_of():
    assert cells(phones(exported())) == [
        ["export", "NNAPI", "4 of 63", "3", "40 of 63", "7", "no"],
        ["export", "CoreML", "5 of 63", "2", "60 of 63", "1", "yes"],
        ["export", "ai.onnx", "Add, Gather"],
        ["export", "com.microsoft", "QAttention"],
    ]
    (line,) = phone_lines(exported())
    assert line == (
        "export: 3 operators in a reduced build; of 63 nodes NNAPI 40 (worth trying: no), CoreML 60 (worth trying: yes)"
    )


def test_pages_and_terminal_show_both_and_nothing_twice():
    for run, key, words in ((pruned(), "pruned_to", "2.21 ms"), (exported(), "phones", "QAttention")):
        made = document(run)
        ours = tuple(section for section in made.sections if section.key == key)
        # Without the plots of the others, which take seconds.
        assert words in html(replace(made, sections=ours))
        assert words in markdown(made)
        assert not any(row[1].startswith(("target", "mobile", "operators")) for row in cells(findings(run)))
    assert pruned_to_lines(pruned())[0] in [line.plain for line in summary_lines(pruned())]
    assert phone_lines(exported())[0] in [line.plain for line in summary_lines(exported())]


def test_runs_without_them_say_nothing():
    assert pruned_to(bert_run()).empty
    assert phones(bert_run()).empty
