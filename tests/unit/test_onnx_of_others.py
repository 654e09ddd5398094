"""ONNX files as others write them: axes of -1, weights anywhere, inputs called anything, outputs of any kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from compress.core.artifacts import TASK
from compress.core.disk.files import write_json
from compress.core.errors import ModelError, UsageError
from compress.encoding.interface import Interface, MappedInputs
from compress.engine.foreign.interfaces import channels_last
from compress.engine.foreign.onnx_file import ImportedModel, ModelSettings, import_model
from compress.models.io.onnx_files import Port
from compress.models.teacher.labels import match_labels
from compress.runtimes import runner
from tests.unit.test_onnx_copies import digests

NODE = helper.make_node
LABELS = ("dark", "light")
WEIGHT = np.array([[-1, -1, -1], [1, 1, 1]], np.float32)
BIAS = np.array([1.5, -1.5], np.float32)
PIXELS = np.random.default_rng(0).random((3, 3, 8, 8)).astype(np.float32)
HEAD = [NODE("GlobalAveragePool", ["x"], ["p"]), NODE("Flatten", ["p"], ["f"])]
GEMM = NODE("Gemm", ["f", "w", "b"], ["y"], transB=1)
SCORES = PIXELS.mean((2, 3)) @ WEIGHT.T + BIAS


def tensor(array: NDArray[Any], name: str) -> TensorProto:
    return numpy_helper.from_array(array, name)


def model_of(
    nodes: Sequence[Any],
    *,
    axes: Sequence[Any] = ("n", 3, 8, 8),
    name: str = "x",
    outputs: Sequence[Any] | None = None,
    constants: Sequence[TensorProto] | None = None,
    opset: int = 13,
    **more: Any,
) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(axes))]
    outputs = outputs or [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])]
    constants = [tensor(WEIGHT, "w"), tensor(BIAS, "b")] if constants is None else constants
    graph = helper.make_graph(list(nodes), "g", inputs, list(outputs), list(constants))
    more.setdefault("ir_version", 8)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), *more.pop("domains", [])], **more
    )


def taken(
    model: onnx.ModelProto,
    folder: Path,
    data: Sequence[str] = LABELS,
    given: ModelSettings | None = None,
    **task: Any,
) -> ImportedModel:
    """The model as it is taken in; its own folder stays as it is."""
    (folder / "mine").mkdir(parents=True, exist_ok=True)
    (folder / "mine" / "model.onnx").write_bytes(model.SerializeToString())
    image = {"size": [8, 8], "channels": 3, "mean": [0] * 3, "std": [1] * 3}
    write_json(
        folder / "mine" / TASK, {"task": "image-classification", "labels": LABELS, "image": image, **task}
    )
    before = digests(folder / "mine")
    given = given or ModelSettings()
    made = import_model(
        folder / "mine" / "model.onnx", given, "image-classification", data, 16, folder / "taken"
    )
    assert digests(folder / "mine") == before
    return made


class Pixels:
    """`PIXELS` as the task encodes them."""

    input_names = ("pixel_values",)
    lengths = np.ones(len(PIXELS), np.int64)

    def __len__(self) -> int:
        return len(PIXELS)

    def batch(self, indices: Any) -> dict[str, NDArray[Any]]:
        return {"pixel_values": PIXELS[np.asarray(indices)]}

    def digest(self) -> str:
        return ""


def scores_of(made: ImportedModel) -> NDArray[np.float32]:
    """What a measurement reads: batches through their file, the chosen output, in the order of the labels."""
    interface = Interface.of(made.artifact.read_json(TASK))
    assert interface is not None
    feeds = str(made.artifact.path.parent / "feeds.npz")
    own = MappedInputs(Pixels(), interface.inputs, interface.length)
    runner.write_batches(feeds, [own.batch([0, 1]), own.batch([2])])
    predict = runner.OnnxRuntime().open(str(made.artifact.model_file), 1, "cpu")
    outputs = np.concatenate([predict(batch) for batch in runner.read_batches(feeds)])
    interface.check_outputs(outputs.shape)
    flat = outputs.reshape(len(outputs), -1)
    return flat if interface.order is None else flat[:, list(interface.order)]


@pytest.mark.parametrize(
    "axes", [(-1, 3, 8, 8), (0, 3, 8, 8), (-1, 3, -1, -1), ("n", 3, "n", "n"), (0, 3, 0, 0)]
)
def test_axes_without_a_size_take_any(axes: tuple[Any, ...], tmp_path: Path) -> None:
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [axes[0], 2])
    made = taken(model_of([*HEAD, GEMM], axes=axes, outputs=[y]), tmp_path)
    assert made.fixed_sizes.batch is None
    np.testing.assert_allclose(scores_of(made), SCORES, rtol=1e-5)


def in_constants(model: Callable[[Any], onnx.ModelProto], location: str, folder: Path) -> onnx.ModelProto:
    """A model with the weights that `model` is given in a file."""
    weight = tensor(WEIGHT, "w")
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    (folder / location).write_bytes(bytes(16) + weight.raw_data)
    set_external_data(weight, location, offset=16, length=len(weight.raw_data))
    weight.ClearField("raw_data")
    return model(weight)


def as_constant(weight: TensorProto) -> onnx.ModelProto:
    return model_of([NODE("Constant", [], ["w"], value=weight), *HEAD, GEMM], constants=[tensor(BIAS, "b")])


def as_initializer(weight: TensorProto) -> onnx.ModelProto:
    return model_of([*HEAD, GEMM], constants=[weight, tensor(BIAS, "b")])


def in_a_branch(weight: TensorProto) -> onnx.ModelProto:
    y = helper.make_tensor_value_info("y1", TensorProto.FLOAT, ["n", 2])
    one, other = (
        helper.make_graph([NODE("Gemm", ["f", "w", "b"], ["y1"], transB=1)], name, [], [y], [weight])
        for name in ("one", "other")
    )
    constants = [tensor(np.array(True), "c"), tensor(BIAS, "b")]
    return model_of(
        [*HEAD, NODE("If", ["c"], ["y"], then_branch=one, else_branch=other)], constants=constants
    )


def in_a_function(weight: TensorProto) -> onnx.ModelProto:
    domains = [helper.make_opsetid("mine", 1)]
    body = [NODE("Constant", [], ["w"], value=weight), NODE("Gemm", ["f", "w", "b"], ["y"], transB=1)]
    function = helper.make_function("mine", "Head", ["f", "b"], ["y"], body, [helper.make_opsetid("", 13)])
    call = NODE("Head", ["f", "b"], ["y"], domain="mine")
    return model_of([*HEAD, call], constants=[tensor(BIAS, "b")], functions=[function], domains=domains)


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "sub/w.bin", "./model.onnx.data"])
@pytest.mark.parametrize("model", [as_initializer, as_constant, in_a_branch, in_a_function])
def test_weights_are_found_wherever_they_are_named(
    model: Callable[[Any], onnx.ModelProto], location: str, tmp_path: Path
) -> None:
    made = taken(in_constants(model, location, tmp_path / "mine"), tmp_path)
    np.testing.assert_allclose(scores_of(made), SCORES, rtol=1e-5)
    own = [tmp_path / "mine" / name for name in ("model.onnx", location)]
    assert made.size.model_mb * 1e6 == pytest.approx(sum(file.stat().st_size for file in own))
    assert len(made.model_files) == 2
    assert all(name.startswith("model.onnx") for name in made.model_files)


@pytest.mark.parametrize("model", [as_constant, in_a_branch, in_a_function])
def test_weights_that_are_not_there_are_missed(
    model: Callable[[Any], onnx.ModelProto], tmp_path: Path
) -> None:
    made = in_constants(model, "w.bin", tmp_path / "mine")
    (tmp_path / "mine" / "w.bin").write_bytes(bytes(20))
    with pytest.raises(ModelError, match="truncated"):
        taken(made, tmp_path)
    (tmp_path / "mine" / "w.bin").unlink()
    with pytest.raises(ModelError, match="missing"):
        taken(made, tmp_path)
    outside = in_constants(model, "../w.bin", tmp_path / "mine")
    with pytest.raises(ModelError) as caught:
        taken(outside, tmp_path)
    assert caught.value.code == "outside-folder"


@pytest.mark.parametrize(
    "name", ["file", "x.shape", "allow_pickle", "names", "values.0", "shapes.0", "a/b", "../x", "self", "é 1"]
)
def test_an_input_may_be_called_anything(name: str, tmp_path: Path) -> None:
    nodes = [NODE("GlobalAveragePool", [name], ["p"]), HEAD[1], GEMM]
    np.testing.assert_allclose(scores_of(taken(model_of(nodes, name=name), tmp_path)), SCORES, rtol=1e-5)


SEQUENCE = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
OPTIONAL = helper.make_value_info(
    "o", helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
)
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
MAPS = [NODE("Unsqueeze", ["y2", "last"], ["y3"]), NODE("Unsqueeze", ["y3", "lost"], ["y"])]
LAST = [tensor(np.array([2]), "last"), tensor(np.array([3]), "lost"), tensor(WEIGHT, "w"), tensor(BIAS, "b")]


@pytest.mark.parametrize(
    ("nodes", "outputs", "constants", "named"),
    [
        ([NODE("SequenceConstruct", ["y"], ["s"])], [SEQUENCE, Y], None, "y"),
        ([NODE("SequenceConstruct", ["y"], ["s"])], [Y, SEQUENCE], None, None),
        ([NODE("Optional", ["y"], ["o"])], [OPTIONAL, Y], None, "y"),
        ([], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], None, None),
        (MAPS, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 1, 1])], LAST, None),
        (MAPS, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], LAST, None),
        (MAPS, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [-1, 2, -1, -1])], LAST, None),
    ],
    ids=[
        "sequence first",
        "sequence last",
        "optional",
        "no shape",
        "maps",
        "maps, no shape",
        "maps, no sizes",
    ],
)
def test_the_output_that_is_read_is_a_row_of_numbers(
    nodes: list[Any], outputs: list[Any], constants: Any, named: str | None, tmp_path: Path
) -> None:
    head = NODE("Gemm", ["f", "w", "b"], ["y2"], transB=1) if constants else GEMM
    made = taken(model_of([*HEAD, head, *nodes], outputs=outputs, constants=constants, opset=16), tmp_path)
    interface = Interface.of(made.artifact.read_json(TASK))
    assert interface is not None
    assert interface.output == named
    np.testing.assert_allclose(scores_of(made), SCORES, rtol=1e-5)


@pytest.mark.parametrize(
    ("outputs", "asked"), [([SEQUENCE], None), ([Y, SEQUENCE], "s"), ([Y, SEQUENCE], "z")]
)
def test_an_output_that_is_no_row_of_numbers_is_refused(
    outputs: list[Any], asked: str | None, tmp_path: Path
) -> None:
    nodes = [*HEAD, GEMM, NODE("SequenceConstruct", ["y"], ["s"])]
    with pytest.raises(ModelError) as caught:
        taken(model_of(nodes, outputs=outputs), tmp_path, given=ModelSettings(output=asked))
    assert (caught.value.code, caught.value.exit_code) == ("wrong-outputs", 4)


def test_names_of_the_only_input_are_not_taken_in_silence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--input input_ids=x: images are one input"):
        taken(model_of([*HEAD, GEMM]), tmp_path, given=ModelSettings(inputs={"input_ids": "x"}))


@pytest.mark.parametrize("shape", [(3, 2, 2, 2), (3, 2, 4, 1), (3, 3)])
def test_outputs_of_another_shape_are_refused_when_they_are_seen(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        Interface({}, order=(1, 0)).check_outputs(shape)
    assert caught.value.code == "wrong-outputs"


@pytest.mark.parametrize(
    ("axes", "last"),
    [
        (("n", "h", "w", 3), True),
        (("batch", "height", "width", "channels"), True),
        (("N", "H", "W", "C"), True),
        (("batch", "input_height", "input_width", "?"), True),
        (("n", 8, 8, 1), True),
        (("n", 3, "h", "w"), False),
        (("batch", "channels", "height", "width"), False),
        (("?", "?", "?", "?"), False),
        (("n", 3, 3, 3), False),
    ],
)
def test_where_the_colours_stand(axes: tuple[Any, ...], last: bool) -> None:
    assert channels_last(Port("x", "float32", axes)) is last


def test_colours_may_stand_last(tmp_path: Path) -> None:
    nodes = [
        NODE("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        NODE("GlobalAveragePool", ["t"], ["p"]),
        HEAD[1],
        GEMM,
    ]
    made = taken(model_of(nodes, axes=("batch", "height", "width", "channels")), tmp_path)
    np.testing.assert_allclose(scores_of(made), SCORES, rtol=1e-5)


def test_a_data_set_may_have_some_of_the_labels(tmp_path: Path) -> None:
    weight, bias = np.vstack([WEIGHT, WEIGHT[::-1]]), np.concatenate([BIAS, BIAS])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    model = model_of([*HEAD, GEMM], outputs=[y], constants=[tensor(weight, "w"), tensor(bias, "b")])
    made = taken(model, tmp_path, ("light", "grey"), labels=["dark", "light", "grey", "black"])
    assert made.labels == 4
    np.testing.assert_allclose(scores_of(made), (PIXELS.mean((2, 3)) @ weight.T + bias)[:, [1, 2]], rtol=1e-5)
    with pytest.raises(ModelError) as caught:
        taken(model, tmp_path / "more", ("light", "pink"), labels=["dark", "light", "grey", "black"])
    assert caught.value.code == "other-labels"
    assert "pink" in caught.value.message
    assert match_labels(("A", "b", "c"), ("a",), subset=True) == (0,)
    assert match_labels(("A", "b"), ("a",)) is None


@pytest.mark.parametrize(("opset", "version"), [(7, 3), (9, 4), (11, 6), (21, 10)])
def test_old_and_new_versions(opset: int, version: int, tmp_path: Path) -> None:
    model = model_of([*HEAD, GEMM], opset=opset, ir_version=version)
    if version < 4:
        for constant in model.graph.initializer:
            shape = helper.make_tensor_value_info(constant.name, TensorProto.FLOAT, constant.dims)
            model.graph.input.append(shape)
    for key in ("names", "file", "author"):
        model.metadata_props.add(key=key, value="{0: 'dark', 1: '\x1b[31m'}")
    np.testing.assert_allclose(scores_of(taken(model, tmp_path)), SCORES, rtol=1e-5)
