"""16 bits: half the bytes, the same outputs within what 16 bits can say, and refusals of what cannot run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from compress.core.artifacts import ONNX_MODEL, Artifact, seal
from compress.core.errors import PassError
from compress.core.forms import NumberFormat
from compress.core.spec import Spec
from compress.data.splits import Examples
from compress.lowering import step as lower
from compress.lowering.files import write_optimized
from compress.passes.export.spec import ExportSpec
from compress.passes.quantize.half import step as half_step
from compress.passes.quantize.half.conversion import store_in_half
from compress.passes.quantize.half.spec import HalfSpec
from compress.planning.steps import build_plan
from compress.profile.load import load_profile
from compress.runtimes.runner import open_session
from compress.step import StepResult
from compress.tasks.base import TrainingData
from tests.quantize_specs import quantize_spec
from tests.steps import context, run
from tests.tiny import LABELS, WORDS, text_task, tiny_bert, tiny_tokenizer, write_torch_artifact


def make(step: object, folder: Path, spec: Spec, model: Artifact) -> tuple[Artifact, StepResult]:
    rng = np.random.default_rng(0)
    texts = tuple(" ".join(rng.choice(WORDS[:8], rng.integers(1, 24))) for _ in range(20))
    examples = Examples(texts, rng.integers(0, len(LABELS), 20))
    data = TrainingData(examples, examples, LABELS)
    return run(step, context(folder, spec, {"model": model}, text_task(32), data))


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    words = [*WORDS, *(f"w{index}" for index in range(600 - len(WORDS) - 5))]
    source = write_torch_artifact(
        tmp_path_factory.mktemp("torch") / "m", tiny_bert(vocab=600), tiny_tokenizer(words)
    )
    return make(lower, tmp_path_factory.mktemp("lower"), ExportSpec(), source)[0]


@pytest.mark.parametrize(
    ("numbers", "arithmetic"), [("fp16", "fp32"), ("bf16", "fp32"), ("fp16", "half")], ids=str
)
def test_half_the_bytes_and_nearly_the_same_outputs(
    lowered: Artifact, tmp_path: Path, numbers: str, arithmetic: str
):
    spec = quantize_spec({"bits": 16, "numbers": numbers, "arithmetic": arithmetic})
    after, result = make(half_step, tmp_path, spec, lowered)
    assert result.form.numbers is NumberFormat.HALF
    assert after.size_mb < 0.62 * lowered.size_mb  # names, biases and norms are much of so small a model
    assert result.facts["scheme"] == f"{numbers}, {'FP32' if arithmetic == 'fp32' else 'FP16'} arithmetic"
    assert max(result.facts["parity"].values()) > 0
    graph = onnx.load(str(after.path / ONNX_MODEL)).graph
    assert {value.type.tensor_type.elem_type for value in graph.output} == {TensorProto.FLOAT}


def test_a_session_multiplies_stored_halves_in_fp32(lowered: Artifact, tmp_path: Path):
    after, _ = make(half_step, tmp_path, HalfSpec(), lowered)
    for path, name in ((after.path, "half"), (lowered.path, "float")):
        write_optimized(path / ONNX_MODEL, tmp_path / f"{name}.onnx", hardware_specific=True)
    kinds = [
        sorted(node.op_type for node in onnx.load(str(tmp_path / f"{name}.onnx")).graph.node)
        for name in ("half", "float")
    ]
    assert kinds[0] == kinds[1]


def product(weight: np.ndarray) -> ir.Model:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", len(weight)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


@pytest.mark.parametrize(("numbers", "kind"), [("fp16", np.float16), ("bf16", ir.DataType.BFLOAT16.numpy())])
def test_a_session_reads_what_was_rounded(tmp_path: Path, numbers: str, kind: type):
    weight = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    model = product(weight)
    assert store_in_half(model, numbers) == 1  # type: ignore[arg-type]
    ir.save(model, tmp_path / "m.onnx")
    got = open_session(str(tmp_path / "m.onnx")).run(None, {"x": np.eye(8, dtype=np.float32)})[0]
    np.testing.assert_array_equal(got, weight.astype(kind).astype(np.float32))


def test_a_weight_beyond_fp16_stays():
    weight = np.full((8, 4), 70000, np.float32)
    assert store_in_half(product(weight), "fp16") == 0
    assert store_in_half(product(weight), "bf16") == 1


def test_outputs_that_16_bits_spoil_are_refused(
    lowered: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(half_step.LIMITS, "fp16", 1e-9)
    with pytest.raises(PassError, match="differ from the model"):
        make(half_step, tmp_path, HalfSpec(), lowered)


def test_a_file_that_did_not_shrink_is_refused(lowered: Artifact, tmp_path: Path):
    half, _ = make(half_step, tmp_path / "once", HalfSpec(), lowered)
    shutil.rmtree(tmp_path / "once" / "work")
    with pytest.raises(PassError, match=r"the fp16 file has .* MB, the float one"):
        make(half_step, tmp_path / "twice", HalfSpec(), half)


def test_what_onnxruntime_cannot_run_is_refused_with_its_reason(lowered: Artifact, tmp_path: Path):
    broken = tmp_path / "broken"
    shutil.copytree(lowered.path, broken)
    model = onnx.load(str(broken / ONNX_MODEL))
    next(node for node in model.graph.node if node.op_type == "Gelu").domain = "nowhere"
    model.opset_import.append(helper.make_opsetid("nowhere", 1))
    onnx.save(model, str(broken / ONNX_MODEL))
    source = seal(broken, lowered.form, lowered.facts)
    with pytest.raises(PassError, match=r"onnxruntime cannot run this model in fp16 here: .*nowhere"):
        make(half_step, tmp_path / "q", HalfSpec(), source)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"bits": 16, "block_size": 64}, "block_size serves 4 bits only; this is `bits: 16`"),
        ({"bits": 16, "numbers": "nf4"}, "Input should be 'fp16' or 'bf16'"),
        (
            {"bits": 8, "numbers": "fp16"},
            "numbers serves 16 bits and `library: bitsandbytes` only; this is `bits: 8`",
        ),
        (
            {"bits": 16, "numbers": "bf16", "arithmetic": "half"},
            "onnxruntime cannot multiply bf16 on a CPU: use `arithmetic: fp32`, or `numbers: fp16`",
        ),
        ({"bits": 8, "arithmetic": "half"}, "arithmetic serves 16 bits only; this is `bits: 8`"),
        ({"bits": 16, "library": "bitsandbytes"}, "bitsandbytes stores 4 or 8 bits"),
    ],
    ids=str,
)
def test_keys_that_do_not_go_together(keys: dict[str, object], message: str):
    with pytest.raises(ValidationError) as caught:
        quantize_spec(keys)
    assert message in str(caught.value)


def test_the_plan_lowers_first(tmp_path: Path):
    (tmp_path / "data.csv").write_text("text,label\nred,colour\n")
    (tmp_path / "m").mkdir()
    (tmp_path / "p.yaml").write_text(
        "name: p\ntask: text-classification\ndata: {path: data.csv}\nteacher: {model: m}\n"
        "passes: [{quantize: {bits: 16}}, {export: {}}]\n"
    )
    plan = build_plan(load_profile(tmp_path / "p.yaml").profile)
    step = plan.step("quantize")
    assert (step.kind, dict(step.inputs), str(step.form)) == (
        "quantize.half",
        {"model": "source.onnx"},
        "onnx half",
    )
