"""Graphs of a few nodes, one rewriting each: what stands in the graph, and what onnxruntime computes with it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compress.lowering.attention import fuse_attention
from compress.lowering.early_token_selection import select_early
from compress.lowering.export import export_graph, signature_of
from compress.lowering.graph import add_initializer, constant_of, insert_before, tidy
from compress.lowering.macs import count_macs
from compress.lowering.patches import patches_to_matmul
from compress.lowering.pooling import mean_to_global_pool
from compress.runtimes.runner import open_session
from tests.draws import generator

RNG = generator(0)
Floats = NDArray[np.float32]


def normal(*shape: int) -> Floats:
    return RNG.normal(size=shape).astype(np.float32)


def model_of(nodes: Sequence[Any], shape: Sequence[Any], **constants: NDArray[Any]) -> ir.Model:
    """A graph from x to y, with the shapes of its inner values."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(made))


def run(model: ir.Model, folder: Path, x: Floats) -> Floats:
    ir.save(model, folder / "run.onnx")
    found: Floats = open_session(str(folder / "run.onnx")).run(None, {"x": x})[0]
    return found


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def patches(size: int = 8, stride: int = 2, **attributes: Any) -> ir.Model:
    side = (size - 2) // stride + 1
    nodes = [
        helper.make_node(
            "Conv", ["x", "w", "b"], ["c"], name="patches", strides=[stride, stride], **attributes
        ),
        helper.make_node("Reshape", ["c", "flat"], ["f"]),
        helper.make_node("Transpose", ["f"], ["y"], perm=[0, 2, 1]),
    ]
    flat = np.array([0, 12, side * side], np.int64)
    return model_of(nodes, ["batch", 3, size, size], w=normal(12, 3, 2, 2), b=normal(12), flat=flat)


def test_patches_are_a_product(tmp_path: Path) -> None:
    model, x = patches(), normal(5, 3, 8, 8)
    wanted = run(model, tmp_path, x)
    assert patches_to_matmul(model) == 1
    tidy(model)
    assert kinds(model) == ["Reshape", "Transpose", "Reshape", "MatMul", "Add"]
    assert run(model, tmp_path, x) == pytest.approx(wanted, abs=1e-5)


def test_patches_that_overlap_or_leave_pixels_out_stay_a_convolution() -> None:
    assert patches_to_matmul(patches(stride=1)) == 0
    assert patches_to_matmul(patches(size=9)) == 0


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_a_spatial_mean_is_a_pooling(keepdims: int, axes: list[int], tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keepdims)]
    model, x = model_of(nodes, ["batch", 4, 6, 5], axes=np.array(axes)), normal(3, 4, 6, 5)
    assert mean_to_global_pool(model) == 1
    tidy(model)
    assert kinds(model) == ["GlobalAveragePool", *(["Squeeze"] if not keepdims else [])]
    wanted = x.mean((2, 3), keepdims=bool(keepdims))
    assert run(model, tmp_path, x) == pytest.approx(wanted, abs=1e-6)


def test_a_mean_over_channels_is_no_pooling() -> None:
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"])]
    assert mean_to_global_pool(model_of(nodes, ["batch", 4, 6, 5], axes=np.array([1, 2]))) == 0


def attention(masked: bool, everywhere: bool = True, times: int = 1) -> ir.Model:
    """Self-attention of 2 heads of 4 over 5 tokens, with a mask that hides nothing, or the first token; the same
    weights so many times."""
    nodes = []
    streams = ["x", *(f"x{turn}" for turn in range(1, times)), "y"]
    for turn, (x, y) in enumerate(pairwise(streams)):
        for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            own = f"{name}{turn}."
            nodes += [
                helper.make_node("MatMul", [x, f"w{name}"], [f"{own}0"], name=f"attention.{name}.{turn}"),
                helper.make_node("Reshape", [f"{own}0", "apart"], [f"{own}1"]),
                helper.make_node("Transpose", [f"{own}1"], [f"{own}2"], perm=order),
            ]
        own = f"{turn}."
        nodes += [
            helper.make_node("MatMul", [f"q{own}2", f"k{own}2"], [f"{own}s0"]),
            helper.make_node("Mul", [f"{own}s0", "scale"], [f"{own}s1"]),
            helper.make_node("Expand", ["kept", "wide"], [f"{own}m0"]),
            helper.make_node("Where", [f"{own}m0", "nothing", "lowest"], [f"{own}m1"]),
            helper.make_node("Add", [f"{own}s1", f"{own}m1"], [f"{own}s2"]),
            helper.make_node("Softmax", [f"{own}s2" if masked else f"{own}s1"], [f"{own}p"], axis=-1),
            helper.make_node("MatMul", [f"{own}p", f"v{own}2"], [f"{own}c0"]),
            helper.make_node("Transpose", [f"{own}c0"], [f"{own}c1"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"{own}c1", "together"], [y]),
        ]
    kept = np.ones((1, 1, 5, 5), bool)
    kept[..., 0] = everywhere
    constants = {f"w{name}": normal(8, 8) for name in "qkv"}
    constants |= {"scale": np.float32(0.5), "nothing": np.float32(0), "lowest": np.float32(-1e9)}
    shapes = {"apart": [-1, 5, 2, 4], "together": [-1, 5, 8], "wide": [1, 1, 5, 5]}
    arrays = {name: np.array(shape, np.int64) for name, shape in shapes.items()}
    return model_of(nodes, ["batch", 5, 8], kept=kept, **constants, **arrays)


@pytest.mark.parametrize("masked", [True, False])
def test_attention_without_padding_is_one_operator(masked: bool, tmp_path: Path) -> None:
    model, x = attention(masked), normal(3, 5, 8)
    wanted = run(model, tmp_path, x)
    assert fuse_attention(model) == 1
    tidy(model)
    assert kinds(model) == ["Attention"]
    assert run(model, tmp_path, x) == pytest.approx(wanted, abs=1e-5)


def test_layers_that_share_their_weights_share_what_is_made_of_them(tmp_path: Path) -> None:
    model, x = attention(masked=True, times=3), normal(3, 5, 8)
    wanted = run(model, tmp_path, x)
    assert fuse_attention(model) == 3
    tidy(model)
    assert kinds(model) == ["Attention"] * 3
    held = sum(constant_of(value).size for value in model.graph.initializers.values())
    assert held == 3 * 8 * 8 + 3 * 8
    assert run(model, tmp_path, x) == pytest.approx(wanted, abs=1e-5)


def test_attention_whose_constant_mask_hides_a_token_is_left_alone() -> None:
    assert fuse_attention(attention(masked=True, everywhere=False)) == 0


def test_two_tokens_are_selected_early_together(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Abs", ["x"], ["t"]),
        helper.make_node("MatMul", ["t", "a"], ["h0"]),
        helper.make_node("Gelu", ["h0"], ["h1"]),
        helper.make_node("LayerNormalization", ["h1", "g", "e"], ["h2"], axis=2),
        helper.make_node("Gather", ["h2", "first"], ["one"], axis=1),
        helper.make_node("Gather", ["h2", "third"], ["other"], axis=1),
        helper.make_node("Sub", ["one", "other"], ["y"]),
    ]
    tokens = {"first": np.array(0, np.int64), "third": np.array(2, np.int64)}
    constants = {"a": normal(6, 10), "g": normal(10), "e": normal(10)}
    model, x = model_of(nodes, ["batch", 4, 6], **constants, **tokens), normal(3, 4, 6)
    wanted = run(model, tmp_path, x)
    assert select_early(model)
    tidy(model)
    found = kinds(model)
    assert found.index("Gather") < found.index("MatMul")
    assert run(model, tmp_path, x) == pytest.approx(wanted, abs=1e-5)


def test_two_heads_select_early_each_for_itself(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Abs", ["x"], ["t"]),
        helper.make_node("MatMul", ["t", "a"], ["h0"]),
        helper.make_node("Gather", ["h0", "first"], ["one"], axis=1),
        helper.make_node("MatMul", ["t", "b"], ["h1"]),
        helper.make_node("Gather", ["h1", "first"], ["other"], axis=1),
        helper.make_node("Sub", ["one", "other"], ["y"]),
    ]
    constants = {"a": normal(6, 10), "b": normal(6, 10), "first": np.array(0, np.int64)}
    model, x = model_of(nodes, ["batch", 4, 6], **constants), normal(3, 4, 6)
    wanted = run(model, tmp_path, x)
    assert select_early(model)
    tidy(model)
    assert kinds(model) == ["Abs", "Gather", "MatMul", "Gather", "MatMul", "Sub"]
    assert run(model, tmp_path, x) == pytest.approx(wanted, abs=1e-5)


def test_a_constant_without_axes_keeps_none() -> None:
    model = patches()
    assert add_initializer(model.graph, "one", np.array(1, np.int64)).shape == ir.Shape([])


IMAGE = {
    "input_names": ["pixel_values"],
    "output_names": ["logits"],
    "image": {"size": [6, 4], "channels": 2},
}


class Takes(nn.Module):
    """A model that takes images by name."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(pixel_values)
        return found


def test_multiply_adds_of_convolutions_by_hand() -> None:
    model = Takes(nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1, groups=2))
    example = signature_of(IMAGE, rows=1).example
    assert example["pixel_values"].shape == (1, 2, 6, 4)
    model.layers.extend([nn.Flatten(), nn.Linear(4 * 4 * 2, 3)])
    assert count_macs(model, example) == 24 * 2 * 8 * 9 + 8 * 8 * 9 + 8 * 4 * 4 + 32 * 3


def test_a_norm_is_folded_exactly_and_only_the_batch_is_dynamic(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Takes(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
        norm = model.layers[1]
        assert isinstance(norm, nn.BatchNorm2d)
        for parameter in (norm.weight, norm.bias, norm.running_mean):
            assert parameter is not None
            nn.init.normal_(parameter)
        assert norm.running_var is not None
        nn.init.uniform_(norm.running_var, 0.1, 4)
        x = torch.randn(3, 2, 6, 4)
    graph = export_graph(model.eval(), signature_of(IMAGE))
    assert [node.op_type for node in graph.graph] == ["Conv", "Relu", "Reshape", "Gemm"]
    assert str(graph.graph.inputs[0].shape) == "[batch,2,6,4]"
    ir.save(graph, tmp_path / "m.onnx")
    got = open_session(str(tmp_path / "m.onnx")).run(None, {"pixel_values": x.numpy()})[0]
    with torch.no_grad():
        assert got == pytest.approx(model(x).numpy(), abs=1e-5)


def test_a_new_value_takes_no_name_that_an_input_an_output_or_a_subgraph_has(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["within"])],
        "inner",
        [],
        [helper.make_tensor_value_info("within", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["scale"]),
        helper.make_node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=inner),
        helper.make_node("Add", ["scale", "chosen"], ["y"]),
    ]
    model, x = model_of(nodes, ["batch", 3], yes=np.array(True)), normal(2, 3)
    wanted = run(model, tmp_path, x)
    names = ["x", "scale", "within", "yes", "y", "new"]
    made = [add_initializer(model.graph, name, np.float32(0)) for name in names]
    assert [value.name for value in made] == ["x.1", "scale.1", "within.1", "yes.1", "y.1", "new"]
    last = next(node for node in model.graph if node.op_type == "Add")
    doubled = insert_before(model.graph, last, ir.node("Add", [last.inputs[0], made[1]], name="scale"))
    assert doubled.name == "scale.2"
    last.replace_input_with(0, doubled)
    assert run(model, tmp_path, x) == pytest.approx(wanted)
