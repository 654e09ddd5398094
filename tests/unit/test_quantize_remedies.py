"""INT8 that loses too much on the validation split: what is tried, what is taken, what is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compress.core.artifacts import ONNX_MODEL, TASK, Artifact, seal
from compress.core.disk.files import write_json
from compress.core.forms import ONNX_FLOAT
from compress.core.terminal.progress import SilentProgress
from compress.data.splits import Examples
from compress.passes.quantize import step
from compress.passes.quantize.int8.remedies import PLAIN, apply_remedies, candidate_specs
from compress.passes.quantize.int8.spec import Int8Spec
from compress.runtimes.runner import open_session
from compress.tasks.base import TrainingData
from compress.tasks.table import task_kind
from tests import steps
from tests.quantize_specs import quantize_spec
from tests.tiny_vision import LABELS, SIZE, image_task

CHANNELS = 32
LABELLED, WRITING = task_kind("text-classification"), task_kind("causal-lm")
PIXELS = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 1, SIZE, SIZE])


def of(scores: dict[str, float]) -> Callable[[Int8Spec], float]:
    def score(spec: Int8Spec) -> float:
        keys = [key for key in ("equalize", "bias_correction") if getattr(spec, key)]
        return scores[" and ".join(keys)]

    return score


def graph(kernels: list[NDArray[np.float32]], head: NDArray[np.float32] | None) -> onnx.ModelProto:
    """A convolution, depthwise ones, Relu behind each, and a head on all places where one is given."""
    nodes, value = [], "pixel_values"
    tensors = {f"w{number}": kernel for number, kernel in enumerate(kernels)}
    for number, kernel in enumerate(kernels):
        nodes += [
            helper.make_node(
                "Conv", [value, f"w{number}"], [f"c{number}"], name=f"conv{number}", pads=[1, 1, 1, 1],
                group=1 if number == 0 else len(kernel),
            ),
            helper.make_node("Relu", [f"c{number}"], [f"r{number}"]),
        ]  # fmt: skip
        value = f"r{number}"
    nodes.append(helper.make_node("Flatten", [value], ["features"]))
    width = "features" if head is None else len(LABELS)
    if head is not None:
        tensors |= {"head": head[:-1], "bias": head[-1]}
        nodes.append(helper.make_node("Gemm", ["features", "head", "bias"], ["logits"], name="head"))
    output = helper.make_tensor_value_info(
        "features" if head is None else "logits", TensorProto.FLOAT, ["batch", width]
    )
    constants = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    made = helper.make_graph(nodes, "uneven", [PIXELS], [output], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, TrainingData]:
    """A depthwise network that answers right, whose channels differ by factors of 10^-1.5 to 10^1.5."""
    folder = tmp_path_factory.mktemp("uneven") / "model"
    folder.mkdir()
    random = np.random.default_rng(0)
    kernels = [random.normal(size=(CHANNELS, 1, 3, 3)).astype(np.float32) for _ in range(3)]
    task = {
        "task": "image-classification",
        "labels": list(LABELS),
        "input_names": ["pixel_values"],
        "output_names": ["logits"],
        "image": {"size": [SIZE, SIZE], "channels": 1, "mean": [0.5], "std": [0.25]},
    }
    write_json(folder / TASK, task)
    # Labels that every channel has a say in: those that the network itself gives, of noise.
    noise = random.integers(0, 256, (200, SIZE, SIZE)).astype(np.uint8)
    unknown = Examples(tuple(noise), np.zeros(len(noise), np.int64))
    pixels = image_task().encode(unknown, folder).batch(range(len(noise)))["pixel_values"]
    onnx.save(graph(kernels, None), str(folder / "features.onnx"))
    features = open_session(str(folder / "features.onnx")).run(None, {"pixel_values": pixels})[0]
    (folder / "features.onnx").unlink()
    head = random.normal(size=(features.shape[1] + 1, len(LABELS))).astype(np.float32)
    head[-1] = -(features @ head[:-1]).mean(axis=0)
    labels = (features @ head[:-1] + head[-1]).argmax(axis=1)
    train, validation = (
        Examples(tuple(noise[part]), labels[part]) for part in (slice(100), slice(100, None))
    )
    # A channel times s, and the next layer's columns divided by it: Relu(s x) = s Relu(x).
    for number in range(2):
        factors = (10 ** random.uniform(-1.5, 1.5, CHANNELS)).astype(np.float32).reshape(-1, 1, 1, 1)
        kernels[number] *= factors
        kernels[number + 1] /= factors
    onnx.save(graph(kernels, head), str(folder / ONNX_MODEL))
    artifact = seal(folder, ONNX_FLOAT, {"parameters": 1})
    return artifact, TrainingData(train, validation, LABELS)


class Noted(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def quantize(
    uneven: tuple[Artifact, TrainingData], folder: Path, **keys: Any
) -> tuple[dict[str, Any], list[str]]:
    artifact, data = uneven
    spec = Int8Spec(**{"calibration": {"examples": 32}, **keys})
    noted = Noted()
    ctx = replace(steps.context(folder, spec, {"model": artifact}, image_task(), data), progress=noted)
    return dict(step.run(ctx).facts), noted.said


def test_auto_takes_what_keeps_the_score(uneven: tuple[Artifact, TrainingData], tmp_path: Path) -> None:
    facts, said = quantize(uneven, tmp_path / "auto")
    found = facts["on_validation"]
    assert found["float"] > 0.95
    assert found[PLAIN] < found["float"] - 0.05
    assert "equalize" in found["chosen"]
    assert found[found["chosen"]] > found["float"] - 0.05
    assert facts["equalized_pairs"] == 2
    assert any(found["chosen"] in line for line in said)


def test_an_explicit_scheme_is_kept_and_the_key_that_helps_is_named(
    uneven: tuple[Artifact, TrainingData], tmp_path: Path
) -> None:
    facts, said = quantize(uneven, tmp_path / "static", scheme="static")
    assert "equalize" in facts["on_validation"]["would_help"]
    assert "equalized_pairs" not in facts
    assert any("warning" in line and "`equalize: true`" in line for line in said)


def test_nothing_is_tried_where_little_is_lost() -> None:
    for scheme, lost in (("auto", 0.01), ("static", 0.05)):
        outcome = apply_remedies(Int8Spec(scheme=scheme), [], LABELLED, 0.9, 0.9 - lost, of({}))
        assert (outcome.spec, outcome.message) == (Int8Spec(scheme=scheme), None)
        assert outcome.facts == {"float": 0.9, PLAIN: 0.9 - lost}


def test_a_remedy_that_does_not_help_is_not_taken() -> None:
    outcome = apply_remedies(Int8Spec(), [], LABELLED, 0.9, 0.8, of({"bias_correction": 0.8}))
    assert outcome.spec == Int8Spec()
    assert "chosen" not in outcome.facts
    assert outcome.message is not None


def test_what_is_lost_of_a_perplexity_is_its_share() -> None:
    for scheme, after in (("auto", -20.2), ("dynamic", -21.0)):
        outcome = apply_remedies(Int8Spec(scheme=scheme), [], WRITING, -20.0, after, of({}))
        assert outcome.message is None
    helped = apply_remedies(Int8Spec(), [], WRITING, -20.0, -22.0, of({"bias_correction": -20.1}))
    assert helped.message == (
        "8-bit integers lose 9.1 % on validation (22.000 instead of 20.000); with bias_correction only 0.5 %, "
        "so it is used"
    )
    said = apply_remedies(Int8Spec(), [], WRITING, -20.0, -22.0, of({"bias_correction": -23.0})).message
    # What is refused of a language model is not advised.
    assert said is not None
    assert said.endswith("do not help: consider `scheme: weight_only`")


def test_keys_that_are_set_stay_as_they_are(uneven: tuple[Artifact, TrainingData]) -> None:
    import onnx_ir as ir

    from compress.passes.quantize.layers import weighted_layers

    found = list(weighted_layers(ir.load(uneven[0].path / ONNX_MODEL).graph))
    assert list(candidate_specs(Int8Spec(), found)) == [
        "equalize", "bias_correction", "equalize and bias_correction",
    ]  # fmt: skip
    assert list(candidate_specs(Int8Spec(equalize=False), found)) == ["bias_correction"]
    assert candidate_specs(Int8Spec(equalize=True, bias_correction=False), found) == {}
    assert list(candidate_specs(Int8Spec(), [])) == ["bias_correction"]
    assert candidate_specs(quantize_spec({"train": {}}), found) == {}
