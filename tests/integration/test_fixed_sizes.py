"""ONNX models of a fixed batch size or length are measured as they are; what is asked for beside that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from compress.core.artifacts import ONNX_MODEL
from compress.core.errors import ModelError, UsageError
from compress.core.records import RunRecord
from compress.core.terminal.progress import SilentProgress
from compress.data.splits import Examples
from compress.encoding.interface import as_model_inputs
from compress.engine.foreign.measuring import measure_files
from compress.engine.foreign.onnx_file import ModelSettings, import_model
from compress.profile.measure_request import MeasureRequest
from compress.profile.schema import DataSpec, TargetSpec
from compress.reporting.data.frame import contract
from compress.tasks.base import task_of
from tests.tiny_onnx import LABELS, VOTES, write_halves_artifact, write_votes_artifact

TASK = task_of("text-classification", DataSpec(path="unused"))
TEXTS = ("red blue", "cat dog cat red", "runs sings runs runs cat blue red red", "")


def fixed(folder: Path, *axes: int | None, second: tuple[int | None, ...] | None = None) -> Path:
    """The model of votes whose inputs are of these sizes; None leaves an axis as it is."""
    write_votes_artifact(folder)
    file = folder / ONNX_MODEL
    model = onnx.load(str(file))
    for port, sizes in zip(model.graph.input, (axes, second or axes), strict=True):
        for dim, size in zip(port.type.tensor_type.shape.dim, sizes, strict=False):
            if size is not None:
                dim.dim_value = size
    onnx.save(model, str(file))
    (folder / "artifact.json").unlink()
    return file


def taken(file: Path, out: Path) -> Any:
    return import_model(file, ModelSettings(), "text-classification", LABELS, 16, out)


def outputs(folder: Path, texts: tuple[str, ...]) -> np.ndarray:
    """Outputs of a model on texts, one by one, as the measurement encodes them."""
    inputs = as_model_inputs(TASK.encode(Examples(texts, np.zeros(len(texts), np.int64)), folder), folder)
    session = onnxruntime.InferenceSession(str(folder / ONNX_MODEL), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, dict(inputs.batch([row])))[0] for row in range(len(texts))])


def test_texts_are_padded_and_cut_to_the_length(tmp_path: Path):
    found = taken(fixed(tmp_path / "model", 1, 5), tmp_path / "taken")
    assert found.fixed_sizes.facts() == {"batch_size": 1, "length": 5}
    folder = tmp_path / "taken"
    inputs = as_model_inputs(TASK.encode(Examples(TEXTS, np.zeros(len(TEXTS), np.int64)), folder), folder)
    batch = inputs.batch([0])
    assert batch["input_ids"].shape == (1, 5)
    assert batch["attention_mask"].sum() < 5
    assert batch["attention_mask"][0, -1] == 0
    assert inputs.lengths.tolist() == [5] * len(TEXTS)
    # Padding counts nothing, and what is longer than five tokens is cut as at any other maximum.
    write_votes_artifact(tmp_path / "free")
    free = import_model(
        tmp_path / "free", ModelSettings(), "text-classification", LABELS, 16, tmp_path / "ours"
    )
    made, expected = outputs(tmp_path / "taken", TEXTS), outputs(free.artifact.path, TEXTS)
    assert (made[:2] == expected[:2]).all()
    assert made[2].sum() < expected[2].sum()
    assert made.shape == expected.shape


def test_other_fixed_sizes_are_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="takes only batches of 8 examples") as caught:
        taken(fixed(tmp_path / "eight", 8, None), tmp_path / "a")
    assert "input_ids (int64, 8 x sequence)" in caught.value.hint
    with pytest.raises(ModelError, match="inputs are fixed to more than one length"):
        taken(fixed(tmp_path / "two", 1, 5, second=(1, 6)), tmp_path / "b")
    assert not (tmp_path / "a").exists()


def test_an_image_model_of_one_image(tmp_path: Path):
    write_halves_artifact(tmp_path / "halves")
    model = onnx.load(str(tmp_path / "halves" / ONNX_MODEL))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, str(tmp_path / "halves" / ONNX_MODEL))
    (tmp_path / "halves" / "artifact.json").unlink()
    found = import_model(
        tmp_path / "halves",
        ModelSettings(),
        "image-classification",
        ("left", "right"),
        16,
        tmp_path / "taken",
    )
    assert found.fixed_sizes.facts() == {"batch_size": 1}


def measured(model: Path, folder: Path, **target: Any) -> RunRecord:
    lines = [f"{first} {second},{LABELS[vote]}" for first, vote in VOTES.items() for second in VOTES]
    (folder / "data.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    request = MeasureRequest.model_validate(
        {
            "name": "fixed",
            "task": "text-classification",
            "data": {"path": "data.csv"},
            "targets": (TargetSpec(**target),),
            "measure": {"examples": 4, "min_seconds": 0.05, "min_rounds": 4, "patience_s": 0},
        }
    )
    run, _ = measure_files(
        model, None, ModelSettings(), request, folder, folder, SilentProgress(), lambda run, record: None
    )
    return run


def test_the_result_says_what_was_fixed(tmp_path: Path):
    run = measured(fixed(tmp_path / "model", 1, 12), tmp_path, sequence_lengths=(12,))
    (row,) = run.steps
    assert row.facts["fixed"] == {"batch_size": 1, "length": 12}
    assert [(one.lengths, one.mean_tokens) for one in row.measurements[0].latency] == [
        ("real", 12.0), ("fixed:12", 12.0),
    ]  # fmt: skip
    (note,) = (note for note in contract(run)["notes"] if "batches" in note)
    assert note == (
        "model.onnx takes batches of 1 only and takes texts of exactly 12 tokens: longer ones are cut, shorter ones "
        "are padded and take as long."
    )
    assert note in run.notes


def test_what_it_cannot_be_measured_at_is_refused(tmp_path: Path):
    model = fixed(tmp_path / "model", 1, 12)
    with pytest.raises(
        UsageError, match="batch_sizes asks for 4, 8, but the model takes batches of 1 only"
    ) as no:
        measured(model, tmp_path, batch_sizes=(1, 4, 8))
    assert no.value.hint == "Ask for `batch_sizes: [1]`, or export the model with a dynamic axis."
    with pytest.raises(
        UsageError, match="sequence_lengths asks for 64, but the model takes texts of exactly 12"
    ):
        measured(model, tmp_path, sequence_lengths=(12, 64))
