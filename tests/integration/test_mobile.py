"""What a bundle says for phones: the operators of a reduced build, the check of usability, the card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.lowering.files import write_optimized
from compress.passes.export.mobile import mobile_usability, operators_in, write_operators
from tests.integration.test_bundles import IMAGES, export_bundle

WIDTH = 8


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_bundle(tmp_path_factory.mktemp("bundle"), IMAGES)


def write_norm(path: Path) -> Path:
    """Add and LayerNormalization, which sessions join where they may."""
    floats = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "tokens", WIDTH])
        for name in "xyz"
    }
    nodes = [
        helper.make_node("Add", ["x", "y"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "scale", "shift"], ["z"], axis=-1),
    ]
    constants = [numpy_helper.from_array(np.ones(WIDTH, np.float32), name) for name in ("scale", "shift")]
    graph = helper.make_graph(nodes, "norm", [floats["x"], floats["y"]], [floats["z"]], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def operators_run(model: Path, folder: Path) -> list[str]:
    """What a session without any option runs."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / model.suffix[1:])
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    session.run(None, {name: np.ones((1, 4, WIDTH), np.float32) for name in "xy"})
    events = json.loads(Path(session.end_profiling()).read_text())
    return [event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})]


def test_an_ort_file_is_not_fused_again(tmp_path: Path) -> None:
    model = write_norm(tmp_path / "norm.onnx")
    write_optimized(model, tmp_path / "norm.ort", hardware_specific=False, ort_format=True)
    assert operators_run(model, tmp_path) == ["SkipLayerNormalization"]
    assert operators_run(tmp_path / "norm.ort", tmp_path) == ["Add", "LayerNormalization"]


def test_the_operators_are_those_of_the_file(tmp_path: Path) -> None:
    model = write_norm(tmp_path / "norm.onnx")
    write_optimized(model, tmp_path / "norm.ort", hardware_specific=False, ort_format=True)
    write_operators(tmp_path / "norm.ort", tmp_path / "operators.config")
    assert (tmp_path / "operators.config").read_text().splitlines() == [
        "# Operators of model.ort",
        'ai.onnx;14;Add{"inputs": {"0": ["float"]}}',
        "ai.onnx;17;LayerNormalization",
    ]
    assert operators_in(tmp_path / "operators.config") == {"ai.onnx": ["Add", "LayerNormalization"]}


def test_usability_counts_what_accelerators_take(tmp_path: Path, bundle: Path) -> None:
    found = mobile_usability(bundle / "model.onnx")
    assert (found["opset"], found["dynamic_inputs"]) == (18, ["pixel_values"])
    for name in ("nnapi", "coreml"):
        assert found[name]["nodes"] <= found[name]["nodes_fixed"] <= found["nodes"]
        assert found[name]["verdict"] in ("no", "maybe", "yes")


def test_a_bundle_tells_phones_what_they_need(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert "required_operators_and_types.config" in manifest["files"]
    assert manifest["facts"]["mobile"] == mobile_usability(bundle / "model.onnx")
    listed = bundle / "required_operators_and_types.config"
    assert manifest["facts"]["operators"] == operators_in(listed)
    card = (bundle / "README.md").read_text()
    assert "implementation 'com.microsoft.onnxruntime:onnxruntime-android:" in card
    assert "pod 'onnxruntime-objc'" in card
    assert "| input | `pixel_values` | float | batch x 1 x 6 x 8 |" in card
    assert "| output | `logits` | float | batch x 2 |" in card
    assert "Nothing was run on a phone." in card
