from compress.passes.quantize.sections import blocks, sensitivity
from compress.reporting.render.document import BarPlot
from compress.reporting.render.html import html
from compress.reporting.sections.content import document
from tests.records import bert_run, change_step

LAYERS = [
    {"layer": "first", "kind": "linear", "weights": 12345, "divergence": 0.0, "given_back": False},
    {"layer": "second", "kind": "attention", "weights": 20, "divergence": 0.5, "given_back": True},
    {"layer": "third", "kind": "embedding", "weights": 20, "divergence": 0.001, "given_back": False},
]
MIXED = {
    "max_drop": 0.005,
    "held": True,
    "reason": "the loss limit is met",
    "score_lost": 0.002,
    "score_lost_in_integers": 0.08,
    "given_back": ["second"],
    "sensitivities": LAYERS,
    "trials": [{"given_back": 0, "score_lost": 0.08}, {"given_back": 1, "score_lost": 0.002}],
}


def run_with(mixed):
    return change_step(bert_run(), "quantize", facts={"parameters": 10, "mixed": mixed})


def mixed_run(**changes):
    return run_with({**MIXED, **changes})


def test_the_worst_layer_stands_first_and_what_was_given_back_is_told_apart():
    section = sensitivity(mixed_run())
    plot = section.figures[0].plot
    assert isinstance(plot, BarPlot)
    assert [(bar.label, bar.marked) for bar in plot.bars] == [
        ("second", True),
        ("third", False),
        ("first", False),
    ]
    first = [cell.text for cell in section.tables[0].rows[0].cells]
    assert first == ["second", "attention", "20", "0.500", "floating point"]
    assert "a loss of at most 0.5 % of validation score: the loss limit is met" in section.paragraphs[0]
    assert "with 1 of them kept in floating point" in section.paragraphs[0]


def test_what_was_predicted_stands_beside_what_was_measured():
    found = {key: value for key, value in MIXED.items() if key != "max_drop"}
    found |= {"latency_ms": 3.0, "predicted_ms": 2.5, "measured_ms": 2.75}
    told = sensitivity(run_with(found)).paragraphs[0]
    assert "at most 3.00 ms per example" in told
    assert "2.50 ms were predicted and 2.75 measured" in told


def test_layers_that_the_time_left_unmeasured_are_counted():
    told = sensitivity(mixed_run(layers=5, layers_measured=3)).paragraphs[0]
    assert "There was time to measure 3 of 5 layers; the others are assumed to lose the least." in told
    assert "There was time" not in sensitivity(mixed_run(layers=3, layers_measured=3)).paragraphs[0]
    # Where the loss holds at once none is measured, whatever the time.
    assert "There was time" not in sensitivity(mixed_run(layers=3, layers_measured=0)).paragraphs[0]


def test_the_page_draws_it():
    text = html(document(mixed_run()))
    assert "sensitivity of the layers" in text
    assert "floating point" in text
    assert "sensitivities" not in text


def test_a_search_that_ended_at_once_has_no_plot():
    section = sensitivity(mixed_run(sensitivities=[], given_back=[]))
    assert section.paragraphs
    assert not section.figures


def test_a_run_without_mixing_has_no_such_section():
    assert sensitivity(bert_run()).empty


def test_what_blocks_changed_is_told_by_kinds_of_layers():
    found = [
        {"layer": "words", "bits": 8, "weights": 600, "error": 0.004},
        {"layer": "layers.0.feed_out", "bits": 4, "weights": 100, "error": 0.1},
        {"layer": "layers.10.feed_out", "bits": 4, "weights": 100, "error": 0.15},
        {"layer": "layers.11.feed_out", "bits": 8, "weights": 100, "error": 0.01},
    ]
    weights = [
        {"layer": "layers.11.feed_out", "divergence": 0.5, "eight_bits": True},
        {"layer": "layers.0.feed_out", "divergence": 0.1, "eight_bits": False},
        {"layer": "layers.10.feed_out", "divergence": None, "eight_bits": False},
    ]
    facts = {"blocks": found, "eight_bits": {"size_mb": 100, "measured": 2, "weights": weights}}
    section = blocks(change_step(bert_run(), "quantize", facts={"parameters": 10, **facts}))
    (table,) = section.tables
    assert [[cell.text for cell in line.cells] for line in table.rows] == [
        ["layers.*.feed_out", "4", "2", "200", "12.5", "15.0 (layers.10.feed_out)"],
        ["layers.*.feed_out", "8", "1", "100", "1.0", "1.0 (layers.11.feed_out)"],
        ["words", "8", "1", "600", "0.4", "0.4 (words)"],
    ]
    told = section.paragraphs[1]
    assert "of 3 weights, 2 of them measured, 1 have 8 bits within 100 MB" in told
    assert "layers.11.feed_out (0.5" in told


def test_what_is_lost_of_a_perplexity_is_told_in_percent():
    told = sensitivity(mixed_run().model_copy(update={"metric": "perplexity"})).paragraphs[0]
    assert "a loss of at most 0.5 % of validation score" in told
    assert "the score changes by −8.0 %" in told
