"""What an ONNX file says of itself: its inputs, its outputs, the files that hold its weights. The model is not run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from compress.errors import ModelError
from compress.files import copy_file, make_folder, replacing
from compress.inside import inside


@dataclass(frozen=True)
class Port:
    """An input or output: its name, the numpy dtype of its values, its axes (a number where it is fixed).

    `axes` is None where the file does not say the rank.
    """

    name: str
    dtype: str
    axes: tuple[int | str, ...] | None

    def __str__(self) -> str:
        shape = "any shape" if self.axes is None else " x ".join(map(str, self.axes)) or "one number"
        return f"{self.name} ({self.dtype}, {shape})"


@dataclass(frozen=True)
class OnnxFile:
    """The inputs and outputs of a model in its own order, and the relative paths of its external data."""

    path: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    external: tuple[str, ...]


def read_onnx(path: Path) -> OnnxFile:
    """Read and check an ONNX file.

    Raises:
        ModelError: it is not there, not ONNX, cut off, not valid, or files of its weights are missing.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        raise ModelError("there is no such file", where=str(path))
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise ModelError(
            "this is not an ONNX model, or it was cut off", where=str(path), hint=_first_line(error)
        ) from error
    if not model.graph.node or not model.graph.output:
        raise ModelError("this ONNX model has no graph: it is empty, or it was cut off", where=str(path))
    external = _external_files(model, path)
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ModelError("this ONNX model is not valid", where=str(path), hint=_first_line(error)) from error
    constants = {tensor.name for tensor in model.graph.initializer}
    taken = [value for value in model.graph.input if value.name not in constants]
    return OnnxFile(path, _ports(taken, path), _ports(model.graph.output, path), external)


def copy_onnx(found: OnnxFile, target: Path, taken: Collection[str] = ()) -> tuple[str, ...]:
    """Copy a model to `target`, and the files of its weights below the same folder; those files' names there.

    Copied and never linked: what is written under a link is written to the file itself. The bytes are the same, unless
    a file of weights has the name of the target or one that is `taken`; then it gets another, and the graph says so.
    """
    import onnx
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    names = {name: name for name in found.external}
    for name in found.external:
        if PurePosixPath(name).parts[0] in (target.name, *taken):
            names[name] = next(new for n in count() if (new := f"weights-{n}.data") not in names.values())
    for name, new in names.items():
        make_folder((target.parent / new).parent)
        copy_file(found.path.parent / name, target.parent / new)
    if all(name == new for name, new in names.items()):
        copy_file(found.path, target)
    else:
        model = onnx.load(str(found.path), load_external_data=False)
        for tensor in filter(uses_external_data, _get_all_tensors(model)):
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = names[entry.value]
        with replacing(target) as temporary:
            onnx.save(model, str(temporary))
    return tuple(names.values())


def _external_files(model: Any, path: Path) -> tuple[str, ...]:
    """The files beside the model that hold weights, by their path from its folder.

    Raises:
        ModelError: one is missing, cut off, or lies outside the folder.
    """
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    parts = [ExternalDataInfo(tensor) for tensor in model.graph.initializer if uses_external_data(tensor)]
    needed: dict[str, int] = {}
    for part in parts:
        end = int(part.offset or 0) + int(part.length or 0)
        needed[str(part.location)] = max(end, needed.get(str(part.location), 0))
    for name, size in sorted(needed.items()):
        if not inside(path.parent, name, where=str(path)).is_file():
            raise ModelError(
                f"the file with the model's weights is missing: {name}",
                where=str(path),
                hint="It belongs into the same folder as the model.",
            )
        present = (path.parent / name).stat().st_size
        if present < size:
            raise ModelError(
                f"the file with the model's weights was cut off: {name} has {present} bytes, the model reads {size}",
                where=str(path),
                hint="Fetch or make both files again.",
            )
    return tuple(sorted(needed))


def _ports(values: Sequence[Any], path: Path) -> tuple[Port, ...]:
    from onnx.helper import tensor_dtype_to_np_dtype

    found = []
    for value in values:
        if not value.type.HasField("tensor_type"):
            raise ModelError(f"{value.name!r} is no tensor", where=str(path))
        tensor = value.type.tensor_type
        axes = None
        if tensor.HasField("shape"):
            axes = tuple(
                int(axis.dim_value) if axis.HasField("dim_value") else axis.dim_param or "?"
                for axis in tensor.shape.dim
            )
        dtype = str(tensor_dtype_to_np_dtype(tensor.elem_type))
        # numpy has no type of texts, and says so.
        found.append(Port(value.name, "string" if dtype == "object" else dtype, axes))
    return tuple(found)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
