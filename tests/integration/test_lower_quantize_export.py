"""Lower, quantize, export, verify: on a tiny model, through the step functions that the engine calls."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import DistilBertConfig, RobertaConfig

from compress.bundles.manifest import write_manifest_metrics
from compress.bundles.verify import verify_bundle
from compress.core.artifacts import Artifact
from compress.core.errors import ModelError, PassError
from compress.core.forms import Framework, NumberFormat, Structure
from compress.core.spec import Spec
from compress.data.splits import Examples
from compress.lowering import step as lower
from compress.lowering.parity import compare_outputs, onnx_predictor, real_batches
from compress.models.io.checkpoints import load_model
from compress.passes.export import step as export
from compress.passes.export.spec import ExportSpec
from compress.passes.quantize import step as quantize
from compress.passes.quantize.calibration.examples import calibration_batches
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.result import QuantizedModel, check_result
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.step import StepContext, StepResult
from compress.targets.local import cpu
from compress.tasks.base import TrainingData
from tests.quantize_specs import quantize_spec
from tests.steps import context, run
from tests.tiny import (
    LABELS,
    WORDS,
    text_task,
    tiny_bert,
    tiny_classifier,
    tiny_tokenizer,
    write_torch_artifact,
)

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
VOCAB = 600


def examples(count: int = 60) -> Examples:
    rng = np.random.default_rng(0)
    texts = tuple(" ".join(rng.choice(WORDS[:8], rng.integers(1, 24))) for _ in range(count))
    return Examples(texts, rng.integers(0, len(LABELS), count))


def given(folder: Path, spec: Spec, model: Artifact) -> StepContext:
    data = TrainingData(examples(), examples(40), LABELS)
    return context(folder, spec, {"model": model}, text_task(32), data)


def make(step: Any, folder: Path, spec: Spec, model: Artifact) -> tuple[Artifact, StepResult]:
    return run(step, given(folder, spec, model))


@pytest.fixture(scope="module")
def torch_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    words = [*WORDS, *(f"w{index}" for index in range(VOCAB - len(WORDS) - 5))]
    model = tiny_bert(vocab=VOCAB, hidden=32)
    return write_torch_artifact(tmp_path_factory.mktemp("torch"), model, tiny_tokenizer(words))


@pytest.fixture(scope="module")
def lowered(torch_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make(lower, tmp_path_factory.mktemp("lower"), ExportSpec(), torch_artifact)[0]


@pytest.fixture(scope="module")
def quantized(lowered: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make(quantize, tmp_path_factory.mktemp("quantize"), Int8Spec(scheme="dynamic"), lowered)[0]


@pytest.fixture(scope="module")
def bundle_made(quantized: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    spec = ExportSpec(formats=("onnx", "ort"), golden=5)
    return make(export, tmp_path_factory.mktemp("export"), spec, quantized)[0]


@pytest.fixture
def bundle(bundle_made: Artifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_made.path, tmp_path / "bundle"))


def test_lowering_reports_what_it_did(lowered: Artifact, torch_artifact: Artifact):
    assert lowered.form.framework is Framework.ONNX
    facts = lowered.facts
    assert facts["parameters"] == torch_artifact.facts["parameters"]
    # 32 tokens, 2 layers: projections, feed-forward, both products of attention; then pooler and classifier.
    per_layer = 32 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 32 * 32 * 32
    assert facts["macs"] == 2 * per_layer + 32 * 32 + 32 * 3
    assert facts["macs_shape"] == [1, 32]
    assert {"1x1", "1x32"} < set(facts["parity"])
    assert max(facts["parity"].values()) < 1e-4
    assert (facts["fused_attentions"], facts["selected_early"]) == (2, True)


def test_lowered_axes_are_named(lowered: Artifact):
    graph = onnx.load(str(lowered.path / "model.onnx")).graph
    axes = [[axis.dim_param for axis in value.type.tensor_type.shape.dim] for value in graph.input]
    assert axes == [["batch", "sequence"]] * 3
    assert [value.name for value in graph.output] == ["logits"]
    assert "bert.encoder.layer.0.attention.self" in [node.name for node in graph.node]


@pytest.mark.parametrize(
    ("config", "fused"),
    [
        (RobertaConfig(vocab_size=40, pad_token_id=0, max_position_embeddings=64, **SIZES), 2),
        (DistilBertConfig(vocab_size=40, dim=32, hidden_dim=64, n_heads=4, n_layers=2), 2),
    ],
    ids=["roberta", "distilbert"],
)
def test_other_families_lower_and_quantize(tmp_path: Path, config: Any, fused: int):
    source = write_torch_artifact(tmp_path / "torch", tiny_classifier(config))
    artifact, result = make(lower, tmp_path / "lower", ExportSpec(), source)
    assert result.facts["fused_attentions"] == fused
    assert result.facts["selected_early"]
    _, result = make(quantize, tmp_path / "quantize", Int8Spec(scheme="dynamic"), artifact)
    assert result.facts["float_matmuls"] == 0


def irregular() -> Any:
    """A BERT whose layers keep 3 and 2 of their 4 heads, and 40 and 64 of their feed-forward width."""
    model = tiny_bert()
    for layer, heads, width in zip(model.bert.encoder.layer, (3, 2), (40, 64), strict=True):
        attention = layer.attention.self
        kept = heads * attention.attention_head_size
        for linear in (attention.query, attention.key, attention.value, layer.intermediate.dense):
            rows = width if linear is layer.intermediate.dense else kept
            linear.weight = torch.nn.Parameter(linear.weight[:rows].clone())
            linear.bias = torch.nn.Parameter(linear.bias[:rows].clone())
            linear.out_features = rows
        for linear, columns in ((layer.attention.output.dense, kept), (layer.output.dense, width)):
            linear.weight = torch.nn.Parameter(linear.weight[:, :columns].clone())
            linear.in_features = columns
        attention.num_attention_heads, attention.all_head_size = heads, kept
    return model


@pytest.fixture(scope="module")
def lowered_irregular(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, StepResult]:
    source = write_torch_artifact(tmp_path_factory.mktemp("torch"), irregular())
    return make(lower, tmp_path_factory.mktemp("lower"), ExportSpec(), source)


def test_pruned_layers_keep_their_own_heads(lowered_irregular: tuple[Artifact, StepResult]):
    artifact, result = lowered_irregular
    assert result.form.structure is Structure.PRUNED
    graph = onnx.load(str(artifact.path / "model.onnx")).graph
    heads = [
        attribute.i
        for node in graph.node
        if node.op_type == "Attention"
        for attribute in node.attribute
        if attribute.name == "num_heads"
    ]
    assert heads == [3, 2]


@pytest.mark.parametrize("bits", [8, 4])
def test_pruned_layers_are_quantized(
    lowered_irregular: tuple[Artifact, StepResult], tmp_path: Path, bits: int
):
    artifact, _ = lowered_irregular
    spec = quantize_spec({"bits": bits, **({"scheme": "dynamic"} if bits == 8 else {})})
    after, result = make(quantize, tmp_path, spec, artifact)
    assert result.facts["float_matmuls"] == 0
    shapes = real_batches(text_task(32), examples(), artifact)
    # 4 bits on random weights are coarse; a wrong number of heads would be off by the outputs' own size.
    limit = 0.05 if bits == 8 else 0.5
    compare_outputs(after.path / "model.onnx", shapes, onnx_predictor(artifact.path / "model.onnx"), limit)


def test_a_file_that_disagrees_is_refused(lowered: Artifact, tmp_path: Path):
    shapes = real_batches(text_task(32), examples(), lowered)
    other = onnx_predictor(lowered.path / "model.onnx")
    with pytest.raises(PassError, match=r"1x1 .*differ from the model's by .*the limit is"):
        compare_outputs(lowered.path / "model.onnx", shapes, lambda batch: other(batch) + 0.01)


@pytest.mark.parametrize("scheme", ["dynamic", "static"])
def test_eight_bits_leave_no_float_product(lowered: Artifact, tmp_path: Path, scheme: str):
    after, result = make(quantize, tmp_path, Int8Spec(scheme=scheme), lowered)
    assert (result.facts["integer_matmuls"], result.facts["float_matmuls"]) == (10, 0)
    assert result.form.numbers is NumberFormat.OPERATOR
    assert after.size_mb < 0.45 * lowered.size_mb
    shapes = real_batches(text_task(32), examples(), lowered)
    compare_outputs(after.path / "model.onnx", shapes, onnx_predictor(lowered.path / "model.onnx"), 0.1)


def test_auto_measures_both_and_says_so(lowered: Artifact, tmp_path: Path):
    _, result = make(quantize, tmp_path, Int8Spec(), lowered)
    assert set(result.facts["variants"]) == {"dynamic", "static"}
    assert result.facts["scheme"] in result.facts["variants"]
    assert all(one["p50_ms"] > 0 for one in result.facts["variants"].values())


@pytest.mark.parametrize("method", ["average", "entropy", "percentile", "mse"])
def test_every_way_to_find_ranges(lowered: Artifact, tmp_path: Path, method: str):
    spec = Int8Spec(scheme="static", calibration={"method": method, "examples": 20})
    after, result = make(quantize, tmp_path, spec, lowered)
    assert result.facts["float_matmuls"] == 0
    shapes = real_batches(text_task(32), examples(), lowered)
    compare_outputs(after.path / "model.onnx", shapes, onnx_predictor(lowered.path / "model.onnx"), 0.3)


@pytest.mark.parametrize("scheme", ["dynamic", "static"])
def test_smoothing_and_bias_correction_together(lowered: Artifact, tmp_path: Path, scheme: str):
    spec = Int8Spec(scheme=scheme, smooth={"alpha": 0.5}, bias_correction=True, exclude=("classifier",))
    after, result = make(quantize, tmp_path, spec, lowered)
    # Attention, its output and both feed-forward products of two layers, and the pooler.
    assert (len(result.facts["smoothed"]), result.facts["corrected_biases"]) == (9, 9)
    assert result.facts["integer_matmuls"] == 9
    shapes = real_batches(text_task(32), examples(), lowered)
    compare_outputs(after.path / "model.onnx", shapes, onnx_predictor(lowered.path / "model.onnx"), 0.1)


def test_pairs_run_in_integers(lowered: Artifact, tmp_path: Path):
    after, result = make(quantize, tmp_path, Int8Spec(format="qdq"), lowered)
    assert (result.facts["scheme"], result.facts["integer_matmuls"]) == ("static", 10)
    assert result.form.numbers is NumberFormat.QDQ
    assert after.size_mb < 0.5 * lowered.size_mb
    # Rows of the table are dequantized after they are read.
    graph = onnx.load(str(after.path / "model.onnx")).graph
    tables = {tensor.name for tensor in graph.initializer if tuple(tensor.dims) == (VOCAB, 32)}
    readers = {node.op_type for node in graph.node if tables.intersection(node.input)}
    assert readers == {"GatherBlockQuantized"}
    shapes = real_batches(text_task(32), examples(), lowered)
    compare_outputs(after.path / "model.onnx", shapes, onnx_predictor(lowered.path / "model.onnx"), 0.1)


def test_kinds_are_excluded_and_weights_reduced(lowered: Artifact, tmp_path: Path):
    spec = Int8Spec(scheme="dynamic", exclude_kinds=("attention", "embedding"), reduce_range=True)
    after, result = make(quantize, tmp_path, spec, lowered)
    assert (result.facts["integer_matmuls"], result.facts["reduced_range"]) == (8, True)
    model = onnx.load(str(after.path / "model.onnx"))
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    integers = [array for array in weights if array.dtype == np.int8]
    assert integers
    assert max(np.abs(array.astype(int)).max() for array in integers) == 64


def test_the_probe_is_a_fact(quantized: Artifact):
    probed = quantized.facts["probe"]
    assert probed["speedup"] > 0
    assert probed["processor"] == cpu()["model"]
    assert {(one["inputs"], one["outputs"]) for one in probed["timings"]} == {
        (32, 96), (32, 32), (32, 64), (64, 32), (32, 3),
    }  # fmt: skip


def test_four_bits_are_weight_only(lowered: Artifact, tmp_path: Path):
    after, result = make(quantize, tmp_path, WeightOnlySpec(), lowered)
    assert result.form.numbers is NumberFormat.WEIGHT_ONLY
    assert (result.facts["weight_only_matmuls"], result.facts["float_matmuls"]) == (10, 0)
    assert after.size_mb < 0.35 * lowered.size_mb


def test_excluded_layers_stay_floating(lowered: Artifact, tmp_path: Path):
    spec = Int8Spec(scheme="dynamic", exclude=("classifier", "bert.encoder.layer.?.output.dense"))
    _, result = make(quantize, tmp_path, spec, lowered)
    assert result.facts["integer_matmuls"] == 7


def test_calibration_sees_training_data_only(lowered: Artifact, tmp_path: Path):
    ctx = given(tmp_path, Int8Spec(), lowered)
    seen = [batch["input_ids"] for batch in calibration_batches(ctx, lowered, 8)()]
    assert len(seen) == 8
    every = ctx.task.encode(ctx.data.train, lowered.path)
    assert all(any(np.array_equal(ids[0], other) for other in every.ids) for ids in seen)


def test_a_file_that_did_not_shrink_fails(lowered: Artifact):
    with pytest.raises(PassError, match="MB"):
        check_result(lowered.path, QuantizedModel(lowered.path, "dynamic", [], {}))


def test_a_float_product_that_is_left_fails(lowered: Artifact, tmp_path: Path):
    shutil.copyfile(lowered.path / "model.onnx", tmp_path / "model.onnx")
    bigger = tmp_path / "bigger"
    bigger.mkdir()
    (bigger / "model.onnx").write_bytes((lowered.path / "model.onnx").read_bytes() + b"\0" * 10)
    with pytest.raises(PassError, match="are still in floating point"):
        check_result(bigger, QuantizedModel(tmp_path, "dynamic", [], {}))


def test_a_bundle_verifies(bundle: Path):
    result = verify_bundle(bundle)
    assert result.problems == ()
    assert (result.examples, result.models) == (5, ("model.onnx", "model.ort"))


def test_the_manifest_describes_the_model(bundle: Path):
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert [value["name"] for value in manifest["inputs"]] == [
        "input_ids",
        "attention_mask",
        "token_type_ids",
    ]
    assert manifest["inputs"][0] == {"name": "input_ids", "type": "int64", "shape": ["batch", "sequence"]}
    assert manifest["outputs"] == [{"name": "logits", "type": "float", "shape": ["batch", 3]}]
    assert manifest["opsets"] == {"ai.onnx": 20, "com.microsoft": 1}
    assert set(manifest["files"]) == {file.name for file in bundle.iterdir()} - {
        "manifest.json",
        "artifact.json",
    }


def test_metrics_are_added_without_breaking_hashes(bundle: Path):
    write_manifest_metrics(bundle, {"accuracy": 0.97}, "name: demo\n", "demo")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["metrics"], manifest["profile"], manifest["name"]) == (
        {"accuracy": 0.97},
        "name: demo\n",
        "demo",
    )
    assert "| accuracy | 0.97 |" in (bundle / "README.md").read_text()
    assert verify_bundle(bundle).ok


def predict(bundle: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-B", str(bundle / "predict.py"), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, cwd="/")


def test_predict_prints_label_and_probability(bundle: Path, torch_artifact: Artifact):
    done = predict(bundle, "the red cat runs", "a dog")
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(lines) == 2
    model, task = load_model(torch_artifact.path), text_task(32)
    inputs = task.encode(Examples(("the red cat runs",), np.array([-1])), torch_artifact.path).batch([0])
    with torch.no_grad():
        logits = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits[0]
    assert lines[0][0] == LABELS[int(logits.argmax())]
    assert float(lines[0][1]) == pytest.approx(float(logits.softmax(0).max()), abs=0.05)


def test_predict_reads_lines_and_prints_json(bundle: Path):
    done = predict(bundle, "--json", "--model", "model.ort", stdin="red\n\nthe bird sings\n")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == ["red", "the bird sings"]
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_predict_without_text_is_an_error(bundle: Path):
    assert predict(bundle).returncode == 2


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.ort", "tokenizer.json", "runner.py", "golden.json", "README.md"]
)
def test_a_changed_file_is_found_and_nothing_is_run(bundle: Path, name: str):
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    result = verify_bundle(bundle)
    assert any(problem.startswith(f"{name} was changed") for problem in result.problems)
    assert result.models == ()


def test_missing_and_unknown_files_are_found(bundle: Path):
    (bundle / "labels.json").unlink()
    (bundle / "extra.py").write_text("print('hello')\n")
    assert set(verify_bundle(bundle).problems) == {
        "labels.json is missing",
        "extra.py is not in the manifest",
    }


def rewrite(bundle: Path, **changes: Any) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"].update(changes)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "a/../../b", "..\\b"])
def test_a_manifest_that_leads_outside_is_refused(bundle: Path, name: str):
    refused_outside(bundle, name)


def refused_outside(bundle: Path, name: str) -> None:
    rewrite(bundle, **{name: {"sha256": "0" * 64, "bytes": 1}})
    with pytest.raises(ModelError) as raised:
        verify_bundle(bundle)
    assert (raised.value.code, raised.value.where) == ("outside-folder", str(bundle / "manifest.json"))


def test_a_link_that_leads_outside_is_refused(bundle: Path, tmp_path: Path):
    (tmp_path / "secret").write_text("x")
    (bundle / "link").symlink_to(tmp_path / "secret")
    refused_outside(bundle, "link")


def rehash(bundle: Path) -> None:
    write_manifest_metrics(bundle, {})


def test_other_answers_are_found(bundle: Path):
    golden = json.loads((bundle / "golden.json").read_text())
    golden["examples"][0]["probabilities"] = golden["examples"][0]["probabilities"][::-1]
    golden["examples"][1]["probabilities"] = [0.0, 0.0, 2.0]
    (bundle / "golden.json").write_text(json.dumps(golden))
    rehash(bundle)
    problems = verify_bundle(bundle).problems
    assert any("golden example 1" in problem for problem in problems)


def test_code_that_needs_torch_is_found(bundle: Path):
    code = (bundle / "runner.py").read_text()
    (bundle / "runner.py").write_text(code.replace("import gc\n", "import gc\nimport torch\n", 1))
    rehash(bundle)
    assert "a bundle must run without torch" in verify_bundle(bundle, allow_code=True).problems[0]


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path):
    with pytest.raises(ModelError, match="not a bundle"):
        verify_bundle(tmp_path)
