"""Mapping of an ONNX model's inputs to those of a task, and checks of its outputs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.core.errors import ModelError, UsageError
from compress.encoding.images import PIXEL_VALUES
from compress.encoding.interface import InputSpec, Interface
from compress.encoding.tokens import ATTENTION_MASK, INPUT_IDS, KNOWN_INPUTS, TOKEN_TYPE_IDS
from compress.models.io.onnx_files import OnnxFile, Port
from compress.profile.model_checks.fit import why_too_long
from compress.profile.schema import TargetSpec
from compress.tasks.table import task_kind

_ALIASES = {"input_mask": ATTENTION_MASK, "segment_ids": TOKEN_TYPE_IDS}
"""Input names of the original BERT, still used by models exported from TensorFlow."""
_CASTABLE_DTYPES = ("int64", "int32", "float32", "float16", "bool")
"""Types that masks are converted to; token ids must be integers, images floating point."""


def text_inputs(model: OnnxFile, mapping: Mapping[str, str]) -> dict[str, InputSpec]:
    """Map the standard names of text inputs to the model's inputs, in the model's order.

    Raises:
        UsageError: `mapping` maps an unknown input.
        ModelError: the model has inputs that texts do not provide, lacks token ids, or does not have a mapped name.
    """
    names = [port.name for port in model.inputs]
    for requested, name in mapping.items():
        if requested not in KNOWN_INPUTS:
            raise UsageError(
                f"--input {requested}={name}: texts provide {', '.join(KNOWN_INPUTS)}, not {requested!r}"
            )
        if name not in names:
            raise ModelError(
                f"the model has no input {name!r}", where=str(model.path), hint=_inputs_hint(model)
            )
    roles_by_name = {name: role for role, name in mapping.items()}
    roles: dict[str, InputSpec] = {}
    for port in model.inputs:
        role = roles_by_name.get(port.name) or _standard_role(port.name)
        if role is None or role in roles:
            raise ModelError(
                f"the model's input {port.name!r} is not one that texts provide",
                where=str(model.path),
                hint=_inputs_hint(model),
            )
        dtypes = ("int64", "int32") if role == INPUT_IDS else _CASTABLE_DTYPES
        _check_port(port, dtypes, 2, model)
        roles[role] = InputSpec(port.name, port.dtype)
    if INPUT_IDS not in roles:
        raise ModelError("the model takes no token ids", where=str(model.path), hint=_inputs_hint(model))
    return roles


def _standard_role(name: str) -> str | None:
    base_name = name.removesuffix(":0")
    return base_name if base_name in KNOWN_INPUTS else _ALIASES.get(base_name)


def image_input(model: OnnxFile) -> dict[str, InputSpec]:
    """Map the pixels to the model's input.

    Raises:
        ModelError: the model does not have exactly one input, or its type or rank is wrong.
    """
    if len(model.inputs) != 1:
        raise ModelError(
            f"expected one input for images, the model has {len(model.inputs)}",
            where=str(model.path),
            hint=_list_inputs(model),
        )
    (port,) = model.inputs
    _check_port(port, ("float32", "float16"), 4, model)
    return {PIXEL_VALUES: InputSpec(port.name, port.dtype, channels_last(port))}


def channels_last(port: Port) -> bool:
    """Whether an image input has its channels on the last axis, judged by sizes, else by the names of the axes."""
    if port.axes is None or port.axes[1] in (1, 3):
        return False
    if port.axes[3] in (1, 3):
        return True
    second, third, fourth = (_axis_meaning(str(name)) for name in port.axes[1:])
    if isinstance(port.axes[3], int) or second == "channels":
        return False
    return fourth == "channels" or (second, third) == ("height", "width")


def _axis_meaning(name: str) -> str | None:
    """Return the meaning of an image axis (`channels`, `height` or `width`) from its name; None if unknown."""
    return next(
        (_AXIS_MEANINGS[word] for word in re.findall("[a-z]+", name.lower()) if word in _AXIS_MEANINGS), None
    )


_AXIS_MEANINGS = {
    **dict.fromkeys(("c", "ch", "chan", "channel", "channels", "color", "colour", "depth"), "channels"),
    **dict.fromkeys(("h", "height", "rows", "y"), "height"),
    **dict.fromkeys(("w", "width", "cols", "columns", "x"), "width"),
}
"""Common names of image axes, with their meaning."""


def _check_port(port: Port, dtypes: Sequence[str], rank: int, model: OnnxFile) -> None:
    if port.dtype not in dtypes:
        raise ModelError(
            f"the model's input {port.name!r} is {port.dtype}; {' or '.join(dtypes)} was expected",
            where=str(model.path),
            hint=_expected_hint(model, rank),
        )
    if port.axes is not None and len(port.axes) != rank:
        raise ModelError(
            f"the model's input {port} has {len(port.axes)} axes; {rank} were expected",
            where=str(model.path),
            hint=_expected_hint(model, rank),
        )


def check_unused_options(
    model: OnnxFile,
    inputs: Mapping[str, str],
    output: str | None,
    labels: Sequence[str] | None,
    task: str,
    *,
    own_decoder: bool,
) -> None:
    """Reject options of the user that would have no effect on this model.

    Args:
        model: the model.
        inputs: mapping of inputs that the user gave.
        output: output that the user gave.
        labels: labels that the user gave for a task without labels.
        task: the task.
        own_decoder: the model is a decoder with a cache, lowered by this package.

    Raises:
        UsageError: an option would have no effect.
    """
    unused: list[tuple[str, str]] = []
    if own_decoder or task_kind(task).items == "image":
        reason = (
            "this decoder was made by compress, and its inputs have their usual names"
            if own_decoder
            else "images are one input, whatever the model calls it"
        )
        unused += [(f"--input {role}={name}", reason) for role, name in inputs.items() if role != name]
    if own_decoder and output not in (None, model.outputs[0].name):
        unused.append((f"--output {output}", "this decoder was made by compress, and its logits are read"))
    if labels:
        unused.append(("--labels", f"{task} has none"))
    for option, reason in unused:
        raise UsageError(f"{option}: {reason}", where=str(model.path), hint=f"Leave `{option}` out.")


@dataclass(frozen=True)
class FixedSizes:
    """Fixed sizes of a model's inputs: the batch size and the length of texts; None if dynamic."""

    batch: int | None = None
    length: int | None = None

    def facts(self) -> dict[str, int]:
        """Return the fixed sizes, for the record."""
        sizes = {"batch_size": self.batch, "length": self.length}
        return {name: size for name, size in sizes.items() if size is not None}

    def describe(self) -> str | None:
        """Describe the fixed sizes and their effect on the measurement; None if nothing is fixed."""
        parts = []
        if self.batch is not None:
            parts.append(f"takes batches of {self.batch} only")
        if self.length is not None:
            parts.append(
                f"takes texts of exactly {self.length} tokens: longer ones are cut, shorter ones are padded and take "
                "as long"
            )
        return " and ".join(parts) or None


def fixed_sizes(model: OnnxFile, *, texts: bool) -> FixedSizes:
    """Return the batch size and the length of texts that the inputs of a model are fixed to.

    Raises:
        ModelError: the batch size is fixed to more than one, or inputs are fixed to different sizes.
    """
    batch = _fixed_axis(model, 0, "batch size")
    if batch not in (None, 1):
        raise ModelError(
            f"the model takes only batches of {batch} examples",
            where=str(model.path),
            hint=f"{_list_inputs(model)} A fixed batch of 1 is measured: export it with that, or with a dynamic axis.",
        )
    return FixedSizes(batch, _fixed_axis(model, 1, "length") if texts else None)


def _fixed_axis(model: OnnxFile, axis: int, axis_name: str) -> int | None:
    sizes = {
        size for port in model.inputs if port.axes is not None and isinstance(size := port.axes[axis], int)
    }
    if len(sizes) > 1:
        raise ModelError(
            f"the model's inputs are fixed to more than one {axis_name}",
            where=str(model.path),
            hint=_list_inputs(model),
        )
    return next(iter(sizes), None)


def check_fixed_sizes(file: Path, fixed: FixedSizes, targets: Iterable[TargetSpec]) -> None:
    """Check that the targets request no batch sizes and lengths other than the fixed ones of a model.

    Raises:
        UsageError: a target requests another one.
    """
    for target in targets:
        for key, requested, supported, phrase in (
            ("batch_sizes", target.batch_sizes, fixed.batch, "batches of {} only"),
            ("sequence_lengths", target.sequence_lengths, fixed.length, "texts of exactly {} tokens"),
        ):
            unsupported = [size for size in requested if supported is not None and size != supported]
            if unsupported:
                raise UsageError(
                    f"{target.label}: {key} asks for {', '.join(map(str, unsupported))}, but the model takes "
                    f"{phrase.format(supported)}",
                    where=str(file),
                    hint=f"Ask for `{key}: [{supported}]`, or export the model with a dynamic axis.",
                )


def check_positions(file: Path, positions: int | None, targets: Iterable[TargetSpec], task: str) -> None:
    """Check that the targets request no lengths beyond the positions of a model.

    Raises:
        UsageError: a target requests one.
    """
    kind = task_kind(task)
    for target in targets:
        reason = why_too_long(kind, target.sequence_lengths, positions, "the model")
        if reason is not None:
            raise UsageError(
                f"{target.label}: sequence_lengths: {reason}", where=str(file), code="max-length"
            )


def _inputs_hint(model: OnnxFile) -> str:
    return f"{_list_inputs(model)} Texts provide {', '.join(KNOWN_INPUTS)}; map them with --input {INPUT_IDS}=NAME."


def _expected_hint(model: OnnxFile, rank: int) -> str:
    """Describe the model's inputs and those that examples provide: rank 2 for texts, rank 4 for images."""
    if rank == 2:
        expected = f"Texts provide {', '.join(KNOWN_INPUTS)}, each int64 of batch x sequence"
    else:
        expected = (
            "Images are one input, float32 of batch x channels x height x width, or with the channels last"
        )
    return f"{_list_inputs(model)} {expected}. Export the model again so that it takes these."


def _list_inputs(model: OnnxFile) -> str:
    return f"Its inputs: {', '.join(map(str, model.inputs)) or 'none'}."


def select_output(model: OnnxFile, name: str | None) -> Port:
    """Return the output to read: the requested one, else the first numeric tensor.

    Raises:
        ModelError: there is no such output, or it is not numeric.
    """
    outputs_text = _list_outputs(model)
    for port in model.outputs:
        if port.name == name if name is not None else port.is_numeric:
            if port.is_numeric:
                return port
            raise ModelError(
                f"the model's output {port} is not a numeric tensor",
                where=str(model.path),
                hint=f"{outputs_text} `--output NAME` reads another one.",
                code="wrong-outputs",
            )
    missing = "has no output that is a numeric tensor" if name is None else f"has no output {name!r}"
    raise ModelError(f"the model {missing}", where=str(model.path), hint=outputs_text, code="wrong-outputs")


def check_output(model: OnnxFile, interface: Interface, port: Port) -> None:
    """Check that the declared shape of an output, as far as it is known, fits the labels."""
    outputs_text = _list_outputs(model)
    if port.axes is None:
        return
    # Axes of size 1 are ignored; with more than two axes, those of unknown size may be of size 1 too.
    wide_axes = [axis for axis in port.axes[1:] if axis != 1 and (axis != "?" or len(port.axes) == 2)]
    if len(port.axes) < 2 or len(wide_axes) > 1:
        raise ModelError(
            f"the model's output {port} is not one row of numbers per example",
            where=str(model.path),
            hint=f"{outputs_text} `--output NAME` reads another one.",
            code="wrong-outputs",
        )
    width = wide_axes[0] if wide_axes else 1 if "?" not in port.axes[1:] else "?"
    if interface.num_outputs is not None and isinstance(width, int) and width != interface.num_outputs:
        raise ModelError(
            f"the model's output {port} has {width} numbers for {interface.num_outputs} labels",
            where=str(model.path),
            hint=f"{outputs_text} `--output NAME` reads another one, `--labels` names its numbers in order.",
            code="wrong-outputs",
        )


def _list_outputs(model: OnnxFile) -> str:
    return f"Its outputs: {', '.join(map(str, model.outputs))}."
