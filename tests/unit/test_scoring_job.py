"""A child process reduces outputs of any rank to answers of a few bytes an example, by a scorer that a task brings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compress.measuring.results import load_answers, output_fault, result_fault
from compress.runtimes import runner
from compress.tasks import label_scorer

WORDS = 11
SCORER = '''
import numpy as np

def answers(outputs, batch, settings):
    """Of each text the bits of its tokens after the first, and how many they are."""
    if outputs.ndim != 3:
        raise ValueError("one row of numbers a token was expected")
    shifted = outputs[:, :-1].astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    wanted = batch["input_ids"][:, 1:]
    bits = -np.take_along_axis(logs, wanted[..., None], axis=-1)[..., 0] / np.log(2) * settings["scale"]
    return {"bits": bits.sum(axis=1), "tokens": np.full(len(bits), bits.shape[1])}
'''


def model(folder: Path, table: NDArray[np.float32]) -> Path:
    """input_ids (n, length) -> (n, length, words): the row of each token."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "length"])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["logits"], axis=0)]
    graph = helper.make_graph(nodes, "g", [ids], [out], [numpy_helper.from_array(table, "table")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, str(folder / "model.onnx"))
    return folder / "model.onnx"


def scored(folder: Path, table: NDArray[np.float32], batches: list[dict[str, Any]]) -> dict[str, Any]:
    """The result of a scoring job in a process of its own."""
    (folder / "scorer.py").write_text(SCORER)
    runner.write_batches(str(folder / "feeds.npz"), batches)
    body = {
        "kind": "score",
        "model": str(model(folder, table)),
        "feeds": str(folder / "feeds.npz"),
        "scorer": str(folder / "scorer.py"),
        "settings": {"scale": 1.0},
        "outputs": str(folder / "answers.npz"),
        "threads": 1,
        "device": "cpu",
    }
    (folder / "job.json").write_text(json.dumps(body))
    command = [sys.executable, "-I", runner.__file__, str(folder / "job.json"), str(folder / "result.json")]
    subprocess.run(command, check=True)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert result_fault(body, result) is None
    assert output_fault(body, result) is None
    return result


def test_outputs_of_three_axes_come_back_as_two_numbers_a_text(tmp_path: Path):
    draw = np.random.default_rng(0)
    table = draw.normal(size=(WORDS, WORDS)).astype(np.float32)
    texts = [draw.integers(0, WORDS, size=(3, 5)), draw.integers(0, WORDS, size=(2, 9))]
    result = scored(tmp_path, table, [{"input_ids": each} for each in texts])
    # Lengths differ from batch to batch, and so do the outputs.
    assert (result["examples"], result["shape"], result["refused"]) == (5, [9, WORDS], None)
    answers = load_answers(tmp_path / "answers.npz")
    chances = np.exp(table) / np.exp(table).sum(axis=1, keepdims=True)
    by_hand = [-np.log2(chances[row[:-1], row[1:]]).sum() for each in texts for row in each]
    np.testing.assert_allclose(answers["bits"], by_hand, rtol=1e-5)
    assert answers["tokens"].tolist() == [4, 4, 4, 8, 8]


def test_outputs_that_a_scorer_refuses_leave_a_reason(tmp_path: Path):
    flat = np.zeros(WORDS, np.float32)
    result = scored(tmp_path, flat, [{"input_ids": np.zeros((2, 4), np.int64)}])
    assert result["refused"] == "one row of numbers a token was expected"
    assert (result["examples"], result["shape"]) == (2, [4])
    assert not (tmp_path / "answers.npz").exists()


def test_labels_are_read_in_the_order_of_the_data():
    outputs = np.array([[3.0, 1.0, 2.0], [0.0, 0.0, 9.0]], np.float32)
    found = label_scorer.answers(outputs, {}, {"order": [2, 0]})
    assert found["label"].tolist() == [1, 0]
    by_hand = np.exp([3.0, 9.0]) / (np.exp([2.0, 9.0]) + np.exp([3.0, 0.0]))
    np.testing.assert_allclose(found["softmax"], by_hand)


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((2, 3), True), ((2, 3, 1, 1), True), ((2, 1, 3), True), ((2, 3, 4), False), ((2,), False)],
)
def test_a_row_of_numbers_an_example_is_read_as_labels(shape: tuple[int, ...], fits: bool):
    outputs = np.zeros(shape, np.float32)
    if fits:
        assert label_scorer.answers(outputs, {}, {})["label"].shape == (2,)
    else:
        with pytest.raises(ValueError, match="one row of numbers"):
            label_scorer.answers(outputs, {}, {})


def test_probabilities_are_known_as_such():
    own = label_scorer.answers(np.array([[0.9, 0.1], [0.2, 0.8]], np.float32), {}, {})
    assert own["distribution"].all()
    np.testing.assert_allclose(own["output"], [0.9, 0.8], rtol=1e-6)
    assert not label_scorer.answers(np.array([[2.0, 1.0]], np.float32), {}, {})["distribution"].any()


def test_probabilities_of_more_labels_than_the_data_has_are_shared_among_its_own():
    logits = np.array([[2.0, 1.0, 0.5, 3.0], [0.0, 1.0, 2.0, -1.0]])
    powers = np.exp(logits)
    order = {"order": [2, 0]}
    found = label_scorer.answers((powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), {}, order)
    of_logits = label_scorer.answers(logits.astype(np.float32), {}, order)
    assert found["distribution"].all()
    assert not of_logits["distribution"].any()
    np.testing.assert_allclose(found["output"], of_logits["softmax"], rtol=1e-5)
    # Where the data's labels are all impossible, nothing is divided by 0.
    nothing = label_scorer.answers(np.array([[0.0, 1.0, 0.0]], np.float32), {}, order)
    assert nothing["output"].tolist() == [0.0]
