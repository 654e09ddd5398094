"""The interface of an ONNX file: its inputs, outputs and weight files. The model is not run."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from compress.core.artifacts import ONNX_MODEL
from compress.core.disk.files import copy_file, make_folder, replacing
from compress.core.disk.safe_paths import path_inside
from compress.core.errors import ModelError, first_line

_NON_TENSOR_KINDS = {
    "sequence_type": "sequence",
    "map_type": "map",
    "optional_type": "optional",
    "sparse_tensor_type": "sparse tensor",
}


@dataclass(frozen=True)
class Port:
    """An input or output: its name, the numpy dtype of its values, its axes (a number if fixed).

    `axes` is None if the file does not state the rank. For a non-tensor, `dtype` is its kind: `sequence`, `map`,
    `optional`, `sparse tensor`.
    """

    name: str
    dtype: str
    axes: tuple[int | str, ...] | None

    @property
    def is_numeric(self) -> bool:
        """Whether it is a tensor of numbers."""
        return self.dtype not in (*_NON_TENSOR_KINDS.values(), "string")

    def __str__(self) -> str:
        if self.dtype in _NON_TENSOR_KINDS.values():
            return f"{self.name} ({self.dtype})"
        shape = "any shape" if self.axes is None else " x ".join(map(str, self.axes)) or "one number"
        return f"{self.name} ({self.dtype}, {shape})"


@dataclass(frozen=True)
class OnnxFile:
    """The inputs and outputs of a model in its own order, and the relative paths of its external data.

    `positions`: number of rows of the rotary tables of its attention; None without such tables.
    """

    path: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    external: tuple[str, ...]
    positions: int | None = None


def onnx_file(model: Path) -> Path:
    """Return the file that a path refers to: itself, or the `model.onnx` of a folder.

    Raises:
        ModelError: it is missing, or of another format.
    """
    file = model / ONNX_MODEL if model.is_dir() else model
    if file.suffix == ".ort":
        raise ModelError(
            "this is onnxruntime's mobile format, which does not describe its inputs",
            where=str(model),
            hint=f"Measure the {ONNX_MODEL} that it was made from.",
        )
    if not file.is_file():
        raise ModelError("file not found", where=str(file))
    return file


def read_onnx(path: Path) -> OnnxFile:
    """Read and check an ONNX file.

    Raises:
        ModelError: it is not ONNX, truncated, not valid, or files with its weights are missing.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise ModelError(
            "this is not an ONNX model, or it is truncated", where=str(path), hint=first_line(error)
        ) from error
    if not model.graph.node or not model.graph.output:
        raise ModelError("this ONNX model has no graph: it is empty or truncated", where=str(path))
    external = _external_files(model, path)
    try:
        onnx.checker.check_model(_for_checker(model) or str(path))
    except onnx.checker.ValidationError as error:
        raise ModelError("this ONNX model is not valid", where=str(path), hint=first_line(error)) from error
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    return OnnxFile(
        path, _ports(inputs, path), _ports(model.graph.output, path), external, _rotary_positions(model.graph)
    )


def _rotary_positions(graph: Any) -> int | None:
    """Read the number of positions from the `cos_cache` (positions, dims) of GroupQueryAttention, its eighth input."""
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) == 2}
    cos_tables = [
        node.input[7] for node in graph.node if node.op_type == "GroupQueryAttention" and len(node.input) > 7
    ]
    return min((int(rows[name]) for name in cos_tables if name in rows), default=None)


def _for_checker(model: Any) -> Any | None:
    """Return a copy of the model with output shapes and without external weights; None if all outputs have shapes.

    The onnx checker requires output shapes, onnxruntime does not.
    """
    import onnx
    from onnx.external_data_helper import uses_external_data

    def lack(graph: Any) -> list[Any]:
        types = [value.type.tensor_type for value in graph.output if value.type.HasField("tensor_type")]
        return [kind for kind in types if not kind.HasField("shape")]

    if not lack(model.graph):
        return None
    checked = onnx.ModelProto()
    checked.CopyFrom(model)
    for tensor_type in lack(checked.graph):
        tensor_type.shape.SetInParent()
    for tensor in filter(uses_external_data, tensors_of(checked)):
        tensor.dims[:] = [0]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return checked


def copy_onnx(source: OnnxFile, target: Path, reserved: Collection[str] = ()) -> tuple[str, ...]:
    """Copy a model to `target`, with its weight files beside it, and return the names of these files.

    They are copied rather than linked, since writing to a link would change the original. Weight files are named
    after the target with a suffix. The graph is copied byte for byte unless it must refer to renamed files or has
    axes of an invalid size (-1 or 0), which are made dynamic.

    Args:
        reserved: names that weight files must not have.
    """
    import onnx
    from onnx.external_data_helper import uses_external_data

    names: dict[str, str] = {}
    for name in source.external:
        is_own_name = name.startswith((f"{target.name}.data", f"{target.name}_data"))
        # Some devices do not accept other characters in file names.
        keeps_name = is_own_name and re.fullmatch(r"[A-Za-z0-9_.-]+", name) is not None
        names[name] = name if keeps_name and name not in reserved else ""
    for name in [name for name, new_name in names.items() if not new_name]:
        names[name] = next(
            new_name for n in count() if (new_name := f"{target.name}_data_{n}") not in names.values()
        )
    for name, new_name in names.items():
        make_folder(target.parent)
        copy_file(source.path.parent / name, target.parent / new_name)
    model = onnx.load(str(source.path), load_external_data=False)
    changed = _make_axes_dynamic(model.graph)
    for tensor in filter(uses_external_data, tensors_of(model)):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value != names[_normalized_path(entry.value)]:
                entry.value, changed = names[_normalized_path(entry.value)], True
    if changed:
        with replacing(target) as temporary:
            onnx.save(model, str(temporary))
    else:
        copy_file(source.path, target)
    return tuple(names.values())


def tensors_of(model: Any) -> Iterator[Any]:
    """Yield every constant of a model: initializers and attributes of the graph, its subgraphs and its functions."""
    for part in (model.graph, *model.functions):
        yield from _constants_of(part)


def _constants_of(part: Any) -> Iterator[Any]:
    sparse = list(getattr(part, "sparse_initializer", ()))
    yield from getattr(part, "initializer", ())
    for node in part.node:
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.HasField("t") else []
            yield from attribute.tensors
            sparse += [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            sparse += attribute.sparse_tensors
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _constants_of(graph)
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def _make_axes_dynamic(graph: Any) -> bool:
    """Remove invalid sizes (-1 or 0) from axes; returns whether there were any."""
    found = False
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ():
            if axis.HasField("dim_value") and axis.dim_value <= 0:
                axis.ClearField("dim_value")
                found = True
    return found


def _normalized_path(name: object) -> str:
    """Normalise a path for comparison: without the `./` that onnx writes."""
    return str(PurePosixPath(str(name)))


def _external_files(model: Any, path: Path) -> tuple[str, ...]:
    """Return the files that hold external weights, as paths relative to the model's folder.

    Raises:
        ModelError: a file is missing, truncated, or outside the folder.
    """
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    min_sizes: dict[str, int] = {}
    for tensor in filter(uses_external_data, tensors_of(model)):
        try:
            part = ExternalDataInfo(tensor)
            end = int(part.offset or 0) + int(part.length or 0)
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"the location of the weights {tensor.name!r} is not valid: {first_line(error)}",
                where=str(path),
                code="damaged-model",
            ) from error
        path_inside(path.parent, part.location, where=str(path))
        name = _normalized_path(part.location)
        min_sizes[name] = max(end, min_sizes.get(name, 0))
    for name, size in sorted(min_sizes.items()):
        if not (path.parent / name).is_file():
            raise ModelError(
                f"the file with the model's weights is missing: {name}",
                where=str(path),
                hint="It belongs in the same folder as the model.",
            )
        actual_size = (path.parent / name).stat().st_size
        if actual_size < size:
            raise ModelError(
                f"the file with the model's weights is truncated: {name} has {actual_size} bytes, the model "
                f"needs {size}",
                where=str(path),
                hint="Download or create both files again.",
            )
    return tuple(sorted(min_sizes))


def _ports(values: Sequence[Any], path: Path) -> tuple[Port, ...]:
    from onnx.helper import tensor_dtype_to_np_dtype

    found = []
    for value in values:
        kind = value.type.WhichOneof("value")
        if kind in _NON_TENSOR_KINDS:
            found.append(Port(value.name, _NON_TENSOR_KINDS[kind], None))
            continue
        tensor = value.type.tensor_type
        axes = None
        if tensor.HasField("shape"):
            # Some exporters write -1 or 0 for a dynamic axis.
            axes = tuple(
                int(axis.dim_value) if axis.dim_value > 0 else axis.dim_param or "?"
                for axis in tensor.shape.dim
            )
        try:
            dtype = str(tensor_dtype_to_np_dtype(tensor.elem_type)) if kind else "unknown"
        except KeyError as error:
            raise ModelError(
                f"{value.name!r} has a type that onnx does not know", where=str(path), code="damaged-model"
            ) from error
        # numpy has no string dtype and reports object.
        found.append(Port(value.name, "string" if dtype == "object" else dtype, axes))
    return tuple(found)
