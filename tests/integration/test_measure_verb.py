"""`compress measure`: ONNX files of ours and of others, by the protocol of a run."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.core.artifacts import ONNX_MODEL, TASK, TOKENIZER
from compress.core.disk.files import write_json, write_text
from compress.core.errors import ModelError
from compress.data.sources import load
from compress.engine.foreign.onnx_file import ModelSettings, import_model
from compress.profile.schema import DataSpec
from compress.store.runs import RunStore
from compress.tasks.label_scorer import answers
from compress.tasks.labels import confidence
from tests.jobs import compress
from tests.tiny import tiny_tokenizer
from tests.tiny_onnx import (
    HALVES,
    LABELS,
    VOCABULARY,
    VOTES,
    votes_table,
    word_tokenizer,
    write_halves_artifact,
    write_votes_artifact,
)

FAST = (
    "--set", "measure.min_seconds=0.05", "--set", "measure.min_rounds=4", "--set", "measure.examples=8",
    "--set", "measure.patience_s=0",
)  # fmt: skip
WRONG_WAY = ("verb", "animal", "colour")
"""The other model's order of the labels: another one than the data's."""


def write_data(folder: Path) -> Path:
    """Texts in which two words of three vote for the label; the model of votes gets every one right."""
    lines = ["text,label"]
    words = {
        label: [word for word, vote in VOTES.items() if vote == index] for index, label in enumerate(LABELS)
    }
    for label in LABELS:
        for first, second, other in itertools.product(words[label], words[label], VOTES):
            lines.append(f"{first} {second} {other},{label}")
    path = folder / "data.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_foreign(
    path: Path,
    names: tuple[str, str] = ("ids", "mask"),
    order: tuple[str, ...] = WRONG_WAY,
    kind: int = TensorProto.INT32,
    width: int | None = None,
    check: bool = True,
) -> None:
    """The model of votes as others would write it: int32 inputs, labels in another order, and a Softmax.

    Its first output is the sums, of another meaning than the probabilities, which come second.
    """
    table = votes_table()[:, [LABELS.index(label) for label in order]]
    if width is not None:
        table = np.resize(table, (len(VOCABULARY), width))
    tensors = {"table": 3 * table, "last": np.array([2]), "middle": np.array([1])}
    nodes = [
        helper.make_node("Gather", ["table", names[0]], ["rows"]),
        helper.make_node("Cast", [names[1]], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["floats", "last"], ["mask3"]),
        helper.make_node("Mul", ["rows", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sums"], keepdims=0),
        helper.make_node("Softmax", ["sums"], ["probabilities"], axis=-1),
        helper.make_node("Neg", ["sums"], ["negated"]),
    ]
    inputs = [helper.make_tensor_value_info(name, kind, ["batch", "sequence"]) for name in names]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "labels"])
        for name in ("negated", "probabilities")
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "foreign", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if check:
        onnx.checker.check_model(model)
    onnx.save(model, str(path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a model of ours (in a bundle's form), and one of others with its tokenizer elsewhere."""
    folder = tmp_path_factory.mktemp("measure")
    write_data(folder)
    write_votes_artifact(folder / "ours")
    write_foreign(folder / "theirs.onnx")
    (folder / "tokens").mkdir()
    write_text(folder / "tokens" / TOKENIZER, word_tokenizer().to_str())
    return folder


FOREIGN = (
    "measure", "theirs.onnx", "--data", "data.csv", "--task", "text-classification", "--tokenizer", "tokens",
    "--labels", ",".join(WRONG_WAY), "--input", "input_ids=ids", "--input", "attention_mask=mask",
    "--output", "probabilities",
)  # fmt: skip


def measured(folder: Path, *words: str) -> dict[str, Any]:
    result = compress(*words, *FAST, "--json", folder=folder)
    assert result.returncode == 0, result.stderr
    body: dict[str, Any] = json.loads(result.stdout)
    return body


def test_a_model_of_ours_needs_no_words(folder: Path):
    body = measured(folder, "measure", "ours", "--data", "data.csv")
    (row,) = body["rows"]
    assert (row["step"], row["role"], row["score"]) == ("baseline", "baseline", 1.0)
    assert row["latency_p50_ms"] > 0
    # A few microseconds in four rounds: what the interval says of them is chance.
    assert (row["latency_verdict"] is None) is (row["disturbed"] is True)
    assert row["speedup"] == pytest.approx(row["baseline_p50_ms"] / row["latency_p50_ms"])
    assert row["peak_memory_mb"] > 0
    assert row["size_mb"] == (folder / "ours" / ONNX_MODEL).stat().st_size / 1e6
    assert row["parameters"] == votes_table().size
    assert body["status"] == "ok"
    run = RunStore(folder / "runs" / body["run"]).load()
    assert set(run.labels) == set(LABELS)
    assert run.splits["test"] == len(run.steps[0].measurements[0].accuracy.truth)
    assert json.loads((folder / "reports" / "ours" / "report.json").read_text()) == body
    again = compress("report", body["run"], "--json", folder=folder)
    assert json.loads(again.stdout) == body


def test_a_model_of_others_is_read_by_its_names_and_labels(folder: Path):
    body = measured(folder, *FOREIGN, "--baseline", "ours")
    baseline, row = body["rows"]
    assert (baseline["step"], row["step"]) == ("baseline", "model")
    assert baseline["score"] == row["score"] == 1.0
    assert row["retention"] == 1.0
    assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
    # Probabilities come out of the model: they are not made ones again.
    run = RunStore(folder / "runs" / body["run"]).load()
    found = run.steps[1].measurements[0].accuracy
    assert min(found.confidence) == pytest.approx(np.exp(6) / (np.exp(6) + np.exp(3) + 1), abs=1e-4)
    side_by_side = compress("compare", body["run"], "ours", folder=folder)
    assert side_by_side.returncode == 0, side_by_side.stderr
    assert "no difference" in side_by_side.stdout


def test_the_first_output_is_read_unless_another_is_named(folder: Path):
    body = measured(folder, *FOREIGN[:-2], "--name", "negated")
    assert body["rows"][0]["score"] == 0.0


def test_an_image_model(tmp_path: Path):
    from PIL import Image

    write_halves_artifact(tmp_path / "halves")
    source = np.random.default_rng(0)
    for label in HALVES:
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(12):
            pixels = source.integers(0, 90, (6, 8), dtype=np.uint8)
            half = slice(0, 4) if label == "left" else slice(4, 8)
            pixels[:, half] += 120
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number}.png")
    body = measured(tmp_path, "measure", "halves", "--data", "images")
    assert body["rows"][0]["score"] == 1.0
    # The same as a user of another exporter has it: channels last, another name, no task.json but transformers' files.
    model = onnx.load(str(tmp_path / "halves" / ONNX_MODEL))
    weight = numpy_helper.to_array(model.graph.initializer[0]).reshape(1, 6, 8, 2).transpose(1, 2, 0, 3)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight.reshape(-1, 2).copy(), "weight"))
    entry = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 6, 8, 1])
    model.graph.input[0].CopyFrom(entry)
    model.graph.node[0].input[0] = "image"
    (tmp_path / "other").mkdir()
    onnx.save(model, str(tmp_path / "other" / "net.onnx"))
    write_json(
        tmp_path / "other" / "config.json",
        {"architectures": ["ANetForImageClassification"], "id2label": {"0": "left", "1": "right"}},
    )
    write_json(
        tmp_path / "other" / "preprocessor_config.json",
        {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": 6, "width": 8},
            "image_mean": [0.5],
            "image_std": [0.25],
        },
    )
    body = measured(
        tmp_path, "measure", "other/net.onnx", "--data", "images", "--task", "image-classification"
    )
    assert body["rows"][0]["score"] == 1.0


def test_weights_in_a_file_beside_the_model_count(folder: Path, tmp_path: Path):
    shutil.copytree(folder / "ours", tmp_path / "split")
    (tmp_path / "split" / "artifact.json").unlink()
    model = onnx.load(str(tmp_path / "split" / ONNX_MODEL))
    onnx.save(
        model, str(tmp_path / "split" / ONNX_MODEL), save_as_external_data=True, location="weights.bin",
        size_threshold=0,
    )  # fmt: skip
    taken = import_model(
        tmp_path / "split", ModelSettings(), "text-classification", LABELS, 16, tmp_path / "taken"
    )
    sizes = [(tmp_path / "split" / name).stat().st_size for name in (ONNX_MODEL, "weights.bin")]
    assert taken.size.model_mb == sum(sizes) / 1e6
    whole = (tmp_path / "split" / "weights.bin").read_bytes()
    (tmp_path / "split" / "weights.bin").write_bytes(whole[:-1])
    cut = rf"the file with the model's weights is truncated: weights\.bin has {len(whole) - 1} bytes"
    with pytest.raises(ModelError, match=cut) as caught:
        import_model(
            tmp_path / "split", ModelSettings(), "text-classification", LABELS, 16, tmp_path / "again"
        )
    assert caught.value.exit_code == 4
    (tmp_path / "split" / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"the file with the model's weights is missing: weights\.bin"):
        import_model(
            tmp_path / "split", ModelSettings(), "text-classification", LABELS, 16, tmp_path / "again"
        )


@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.95])
def test_a_truncated_file(folder: Path, tmp_path: Path, kept: float):
    shutil.copytree(folder / "ours", tmp_path / "cut")
    file = tmp_path / "cut" / ONNX_MODEL
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept if isinstance(kept, int) else kept * len(whole))])
    result = compress("measure", tmp_path / "cut", "--data", "data.csv", *FAST, folder=folder)
    assert result.returncode == 4
    assert "cut off" in result.stderr
    assert str(file) in result.stderr


@pytest.mark.parametrize("name", [ONNX_MODEL, TOKENIZER, TASK])
def test_a_bundle_that_is_not_what_was_made(folder: Path, tmp_path: Path, name: str):
    shutil.copytree(folder / "ours", tmp_path / "ours")
    file = tmp_path / "ours" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        ModelError, match=r"was changed since it was made, according to artifact\.json"
    ) as caught:
        import_model(
            tmp_path / "ours", ModelSettings(), "text-classification", LABELS, 16, tmp_path / "taken"
        )
    assert caught.value.where == str(file)
    file.write_bytes(whole[:-1])
    cut = f"was cut off: it has {len(whole) - 1} of {len(whole)} bytes"
    with pytest.raises(ModelError, match=cut):
        import_model(
            tmp_path / "ours", ModelSettings(), "text-classification", LABELS, 16, tmp_path / "taken"
        )
    assert not (tmp_path / "taken").exists()


FAULTS = {
    "wrong input": (
        ("--input", "input_ids=tokens"),
        "the model has no input 'tokens'",
        "Its inputs: ids (int32,",
    ),
    "unknown role": (("--input", "words=ids"), "texts provide input_ids, attention_mask, token_type_ids", ""),
    "unknown output": (("--output", "logits"), "the model has no output 'logits'", "Its outputs: negated"),
    "two labels": (
        ("--labels", "verb,animal"),
        "[other-labels]",
        "animal",
    ),
    "other labels": (
        ("--labels", "a,b,c"),
        "[other-labels]",
        "animal",
    ),
}


@pytest.mark.parametrize(("words", "message", "hint"), FAULTS.values(), ids=FAULTS.keys())
def test_what_the_user_says_wrong(folder: Path, words: tuple[str, str], message: str, hint: str):
    without = [*FOREIGN]
    if words[0] in ("--labels", "--output"):
        place = without.index(words[0])
        del without[place : place + 2]
    elif "words" not in words[1]:
        place = without.index("input_ids=ids") - 1
        del without[place : place + 2]
    result = compress(*without, *words, *FAST, folder=folder)
    assert result.returncode == (2 if "words=ids" in words else 4)
    assert message in result.stderr
    assert hint in result.stderr


def test_unnamed_inputs_are_refused_with_the_names_that_the_model_has(tmp_path: Path):
    write_foreign(tmp_path / "model.onnx")
    write_text(tmp_path / TOKENIZER, word_tokenizer().to_str())
    given = ModelSettings(labels=WRONG_WAY)
    with pytest.raises(ModelError, match="the model's input 'ids' is not one that texts provide") as caught:
        import_model(tmp_path / "model.onnx", given, "text-classification", LABELS, 16, tmp_path / "taken")
    assert caught.value.hint == (
        "Its inputs: ids (int32, batch x sequence), mask (int32, batch x sequence). Texts provide input_ids, "
        "attention_mask, token_type_ids; map them with --input input_ids=NAME."
    )
    assert caught.value.exit_code == 4
    assert not (tmp_path / "taken").exists()


def test_the_first_berts_names_are_known(tmp_path: Path):
    write_foreign(tmp_path / "model.onnx", names=("input_ids:0", "input_mask:0"))
    write_text(tmp_path / TOKENIZER, word_tokenizer().to_str())
    given = ModelSettings(labels=WRONG_WAY)
    taken = import_model(
        tmp_path / "model.onnx", given, "text-classification", LABELS, 16, tmp_path / "taken"
    )
    assert taken.artifact.read_json(TASK)["interface"]["inputs"]["attention_mask"] == {
        "name": "input_mask:0", "dtype": "int32", "channels_last": False,
    }  # fmt: skip
    assert taken.artifact.read_json(TASK)["interface"]["order"] == [2, 1, 0]


def test_what_stands_beside_a_tokenizer_counts(tmp_path: Path):
    write_foreign(tmp_path / "model.onnx")
    write_text(tmp_path / TOKENIZER, tiny_tokenizer().to_str())
    said = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": False,
        "truncation_side": "left",
        "model_max_length": 9,
    }
    write_json(tmp_path / "tokenizer_config.json", said)
    given = ModelSettings(labels=WRONG_WAY, inputs={"input_ids": "ids", "attention_mask": "mask"})
    taken = import_model(
        tmp_path / "model.onnx", given, "text-classification", LABELS, 16, tmp_path / "taken"
    )
    task = taken.artifact.read_json(TASK)
    assert (task["max_length"], task["texts"]["cut"]) == (9, "left")
    body = taken.artifact.read_json(TOKENIZER)
    assert body["normalizer"]["lowercase"] is False


def test_floating_token_ids_are_refused(tmp_path: Path):
    write_votes_artifact(tmp_path / "ours")
    model = onnx.load(str(tmp_path / "ours" / ONNX_MODEL))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.node[0].input[1] = "whole"
    model.graph.node.insert(0, helper.make_node("Cast", ["input_ids"], ["whole"], to=TensorProto.INT64))
    onnx.save(model, str(tmp_path / "ours" / ONNX_MODEL))
    (tmp_path / "ours" / "artifact.json").unlink()
    with pytest.raises(ModelError, match="'input_ids' is float32; int64 or int32 was expected") as caught:
        import_model(
            tmp_path / "ours", ModelSettings(), "text-classification", LABELS, 16, tmp_path / "taken"
        )
    assert caught.value.hint == TEXTS_GIVE.format("input_ids (float32, batch x sequence)")


TEXTS_GIVE = (
    "Its inputs: {}, attention_mask (int64, batch x sequence). Texts provide input_ids, attention_mask, token_type_ids,"
    " each int64 of batch x sequence. Export the model again so that it takes these."
)


def test_token_ids_of_one_axis_and_texts_are_refused(tmp_path: Path):
    write_votes_artifact(tmp_path / "ours")
    (tmp_path / "ours" / "artifact.json").unlink()
    model = onnx.load(str(tmp_path / "ours" / ONNX_MODEL))
    entry = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch"])
    model.graph.input[0].CopyFrom(entry)
    onnx.save(model, str(tmp_path / "ours" / ONNX_MODEL))
    said = r"the model's input input_ids \(int64, batch\) has 1 axes; 2 were expected"
    with pytest.raises(ModelError, match=said) as caught:
        import_model(
            tmp_path / "ours", ModelSettings(), "text-classification", LABELS, 16, tmp_path / "taken"
        )
    assert caught.value.hint == TEXTS_GIVE.format("input_ids (int64, batch)")
    write_foreign(
        tmp_path / "words.onnx", names=("input_ids", "attention_mask"), kind=TensorProto.STRING, check=False
    )
    write_text(tmp_path / TOKENIZER, word_tokenizer().to_str())
    with pytest.raises(ModelError, match="'input_ids' is string; int64 or int32 was expected"):
        import_model(
            tmp_path / "words.onnx", ModelSettings(), "text-classification", LABELS, 16, tmp_path / "taken"
        )


def test_a_wrong_number_of_outputs_is_found_when_the_model_runs(folder: Path, tmp_path: Path):
    write_foreign(tmp_path / "wide.onnx", width=7)
    words = [str(tmp_path / "wide.onnx") if word == "theirs.onnx" else word for word in FOREIGN]
    result = compress(*words, *FAST, folder=folder)
    assert result.returncode == 4, result.stderr
    assert "the model's output has the shape n x 7: 7 numbers per example for 3 labels" in result.stderr


def test_unlabelled_outputs_are_refused(folder: Path):
    place = FOREIGN.index("--labels")
    result = compress(*FOREIGN[:place], *FOREIGN[place + 2 :], *FAST, folder=folder)
    assert result.returncode == 4
    assert "it is unknown which label each output of this model stands for" in result.stderr


def test_the_task_and_the_data_have_to_be_known(folder: Path):
    result = compress("measure", "theirs.onnx", "--data", "data.csv", folder=folder)
    assert result.returncode == 2
    assert "--task text-classification" in result.stderr
    result = compress("measure", "ours", folder=folder)
    assert result.returncode == 2
    assert "--data PATH" in result.stderr
    result = compress("measure", "ours", "--data", "data.csv", "--target", "{thread: 2}", folder=folder)
    assert result.returncode == 2
    assert "did you mean `threads`?" in result.stderr


def test_a_failed_measurement_leaves_a_run_that_says_why(folder: Path, tmp_path: Path):
    write_foreign(tmp_path / "wide.onnx", width=7)
    words = [str(tmp_path / "wide.onnx") if word == "theirs.onnx" else word for word in FOREIGN]
    compress(*words, "--name", "broken", *FAST, folder=folder)
    (run,) = (folder / "runs").glob("broken-*")
    record = RunStore(run).load()
    assert record.status == "failed"
    assert "7 numbers per example for 3 labels" in (record.error or "")


def test_the_test_split_is_that_of_a_run(folder: Path):
    spec = DataSpec(path="data.csv")
    body = measured(folder, "measure", "ours", "--data", "data.csv", "--name", "split")
    run = RunStore(folder / "runs" / body["run"]).load()
    test = load(spec, folder, 0, "text-classification").test
    assert run.steps[0].measurements[0].accuracy.truth == tuple(test.labels.tolist())


def test_outputs_that_are_probabilities_stay_what_they_are():
    logits = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]], np.float32)
    sure = confidence(answers(logits, {}, {}))
    by_hand = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert sure == pytest.approx(by_hand.max(axis=1))
    assert confidence(answers(by_hand.astype(np.float32), {}, {})) == pytest.approx(sure)
