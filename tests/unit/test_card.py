"""The card of a bundle: every file that it needs, and names that others chose as text."""

from __future__ import annotations

from typing import Any

from compress.bundles.manifest import render_card
from compress.core.forms import TORCH_FLOAT
from compress.engine.budget import shows_disturbed
from compress.tasks.table import quantities_of
from tests.records import disturbed_step
from tests.unit.test_report_quantities import LM, language_run


def card(files: tuple[str, ...] = (), **changes: Any) -> str:
    manifest = {
        "name": "tiny-0123",
        "task": "text-classification",
        "labels": ["a", "b"],
        "form": TORCH_FLOAT.as_dict(),
        "facts": {"parameters": 10},
        "opsets": {"ai.onnx": 20},
        "inputs": [{"name": "input_ids", "type": "int64", "shape": ["batch", "sequence"]}],
        "outputs": [{"name": "logits", "type": "float", "shape": ["batch", 2]}],
        "tolerance": 0.001,
        "libraries": {"compress": "0.1.0"},
        "metrics": {},
        "files": {name: {"sha256": "", "bytes": 1000} for name in ("model.onnx", *files)},
    }
    return render_card({**manifest, **changes})


def test_labels_and_targets_are_text() -> None:
    labels = ["<script>", "a|b", "*bold*", "two\n## Lines"]
    text = card(labels=labels, metrics={"target": "a|b <i>", "score": 0.5})
    assert "Labels: &lt;script&gt;, a\\|b, \\*bold\\*, two ## Lines." in text.splitlines()
    assert "| target | a\\|b &lt;i&gt; |" in text.splitlines()
    assert "| score | 0.5 |" in text.splitlines()


def test_it_names_all_code() -> None:
    text = card(("predict.py", "decoding.py", "golden/000.png"))
    named = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert named == ["model.onnx", "predict.py", "decoding.py", "golden/"]


def test_a_number_of_any_disturbed_timing_is_marked() -> None:
    whole, disturbed = (run.steps[-1] for run in (language_run(), disturbed_step(language_run(), "export")))
    (one,), (two,) = whole.measurements, disturbed.measurements
    for place, marked in enumerate((True, False, True, False)):
        latency = [*one.latency]
        latency[place] = two.latency[place]
        step = whole.model_copy(
            update={"measurements": (one.model_copy(update={"latency": tuple(latency)}),)}
        )
        # Further batch sizes are not on the card.
        assert shows_disturbed(step, quantities_of(LM)) is marked
