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
from compress.profile.model_checks.fit import too_long
from compress.profile.schema import TargetSpec
from compress.tasks.table import task_kind

_USUAL = {"input_mask": ATTENTION_MASK, "segment_ids": TOKEN_TYPE_IDS}
"""Input names of the original BERT, still used by models exported from TensorFlow."""
_CONVERTED = ("int64", "int32", "float32", "float16", "bool")
"""Types that masks are converted to; token ids must be integers, images floating point."""


def text_inputs(found: OnnxFile, said: Mapping[str, str]) -> dict[str, InputSpec]:
    """Map the standard names of text inputs to the model's inputs, in the model's order.

    Raises:
        UsageError: `said` maps an unknown input.
        ModelError: the model has inputs that texts do not provide, lacks token ids, or does not have a mapped name.
    """
    names = [port.name for port in found.inputs]
    for asked, name in said.items():
        if asked not in KNOWN_INPUTS:
            raise UsageError(
                f"--input {asked}={name}: texts provide {', '.join(KNOWN_INPUTS)}, not {asked!r}"
            )
        if name not in names:
            raise ModelError(
                f"the model has no input {name!r}", where=str(found.path), hint=_inputs_hint(found)
            )
    named = {name: role for role, name in said.items()}
    roles: dict[str, InputSpec] = {}
    for port in found.inputs:
        role = named.get(port.name) or _usual_role(port.name)
        if role is None or role in roles:
            raise ModelError(
                f"the model's input {port.name!r} is not one that texts provide",
                where=str(found.path),
                hint=_inputs_hint(found),
            )
        wanted = ("int64", "int32") if role == INPUT_IDS else _CONVERTED
        _check_port(port, wanted, 2, found)
        roles[role] = InputSpec(port.name, port.dtype)
    if INPUT_IDS not in roles:
        raise ModelError("the model takes no token ids", where=str(found.path), hint=_inputs_hint(found))
    return roles


def _usual_role(name: str) -> str | None:
    plain = name.removesuffix(":0")
    return plain if plain in KNOWN_INPUTS else _USUAL.get(plain)


def image_input(found: OnnxFile) -> dict[str, InputSpec]:
    """Map the pixels to the model's input.

    Raises:
        ModelError: the model does not have exactly one input, or its type or rank is wrong.
    """
    if len(found.inputs) != 1:
        raise ModelError(
            f"expected one input for images, the model has {len(found.inputs)}",
            where=str(found.path),
            hint=_inputs_of(found),
        )
    (port,) = found.inputs
    _check_port(port, ("float32", "float16"), 4, found)
    return {PIXEL_VALUES: InputSpec(port.name, port.dtype, channels_last(port))}


def channels_last(port: Port) -> bool:
    """Whether an image input has its channels on the last axis, judged by sizes, else by the names of the axes."""
    if port.axes is None or port.axes[1] in (1, 3):
        return False
    if port.axes[3] in (1, 3):
        return True
    second, third, fourth = (_axis(str(name)) for name in port.axes[1:])
    if isinstance(port.axes[3], int) or second == "channels":
        return False
    return fourth == "channels" or (second, third) == ("height", "width")


def _axis(name: str) -> str | None:
    """Return the meaning of an image axis (`channels`, `height` or `width`) from its name; None if unknown."""
    return next((_AXES[word] for word in re.findall("[a-z]+", name.lower()) if word in _AXES), None)


_AXES = {
    **dict.fromkeys(("c", "ch", "chan", "channel", "channels", "color", "colour", "depth"), "channels"),
    **dict.fromkeys(("h", "height", "rows", "y"), "height"),
    **dict.fromkeys(("w", "width", "cols", "columns", "x"), "width"),
}
"""Common names of image axes, with their meaning."""


def _check_port(port: Port, dtypes: Sequence[str], rank: int, found: OnnxFile) -> None:
    if port.dtype not in dtypes:
        raise ModelError(
            f"the model's input {port.name!r} is {port.dtype}; {' or '.join(dtypes)} was expected",
            where=str(found.path),
            hint=_expected_hint(found, rank),
        )
    if port.axes is not None and len(port.axes) != rank:
        raise ModelError(
            f"the model's input {port} has {len(port.axes)} axes; {rank} were expected",
            where=str(found.path),
            hint=_expected_hint(found, rank),
        )


def check_unused_options(
    found: OnnxFile,
    inputs: Mapping[str, str],
    output: str | None,
    labels: Sequence[str] | None,
    task: str,
    *,
    ours: bool,
) -> None:
    """Reject options of the user that would have no effect on this model.

    Args:
        found: the model.
        inputs: mapping of inputs that the user gave.
        output: output that the user gave.
        labels: labels that the user gave for a task without labels.
        task: the task.
        ours: the model is a decoder with a cache, lowered by this package.

    Raises:
        UsageError: an option would have no effect.
    """
    vain: list[tuple[str, str]] = []
    if ours or task_kind(task).items == "image":
        why = (
            "this decoder was made by compress, and its inputs have their usual names"
            if ours
            else "images are one input, whatever the model calls it"
        )
        vain += [(f"--input {role}={name}", why) for role, name in inputs.items() if role != name]
    if ours and output not in (None, found.outputs[0].name):
        vain.append((f"--output {output}", "this decoder was made by compress, and its logits are read"))
    if labels:
        vain.append(("--labels", f"{task} has none"))
    for said, why in vain:
        raise UsageError(f"{said}: {why}", where=str(found.path), hint=f"Leave `{said}` out.")


@dataclass(frozen=True)
class Fixed:
    """Fixed sizes of a model's inputs: the batch size and the length of texts; None if dynamic."""

    batch: int | None = None
    length: int | None = None

    def facts(self) -> dict[str, int]:
        """Return the fixed sizes, for the record."""
        found = {"batch_size": self.batch, "length": self.length}
        return {name: size for name, size in found.items() if size is not None}

    def words(self) -> str | None:
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


def fixed_sizes(found: OnnxFile, *, texts: bool) -> Fixed:
    """Return the batch size and the length of texts that the inputs of a model are fixed to.

    Raises:
        ModelError: the batch size is fixed to more than one, or inputs are fixed to different sizes.
    """
    batch = _fixed_axis(found, 0, "batch size")
    if batch not in (None, 1):
        raise ModelError(
            f"the model takes only batches of {batch} examples",
            where=str(found.path),
            hint=f"{_inputs_of(found)} A fixed batch of 1 is measured: export it with that, or with a dynamic axis.",
        )
    return Fixed(batch, _fixed_axis(found, 1, "length") if texts else None)


def _fixed_axis(found: OnnxFile, axis: int, called: str) -> int | None:
    sizes = {
        size for port in found.inputs if port.axes is not None and isinstance(size := port.axes[axis], int)
    }
    if len(sizes) > 1:
        raise ModelError(
            f"the model's inputs are fixed to more than one {called}",
            where=str(found.path),
            hint=_inputs_of(found),
        )
    return next(iter(sizes), None)


def check_fixed(file: Path, fixed: Fixed, targets: Iterable[TargetSpec]) -> None:
    """Check that the targets request no batch sizes and lengths other than the fixed ones of a model.

    Raises:
        UsageError: a target requests another one.
    """
    for target in targets:
        for key, asked, only, what in (
            ("batch_sizes", target.batch_sizes, fixed.batch, "batches of {} only"),
            ("sequence_lengths", target.sequence_lengths, fixed.length, "texts of exactly {} tokens"),
        ):
            others = [size for size in asked if only is not None and size != only]
            if others:
                raise UsageError(
                    f"{target.label}: {key} asks for {', '.join(map(str, others))}, but the model takes "
                    f"{what.format(only)}",
                    where=str(file),
                    hint=f"Ask for `{key}: [{only}]`, or export the model with a dynamic axis.",
                )


def check_positions(file: Path, positions: int | None, targets: Iterable[TargetSpec], task: str) -> None:
    """Check that the targets request no lengths beyond the positions of a model.

    Raises:
        UsageError: a target requests one.
    """
    kind = task_kind(task)
    for target in targets:
        if (why := too_long(kind, target.sequence_lengths, positions, "the model")) is not None:
            raise UsageError(f"{target.label}: sequence_lengths: {why}", where=str(file), code="max-length")


def _inputs_hint(found: OnnxFile) -> str:
    return f"{_inputs_of(found)} Texts provide {', '.join(KNOWN_INPUTS)}; map them with --input {INPUT_IDS}=NAME."


def _expected_hint(found: OnnxFile, rank: int) -> str:
    """Describe the model's inputs and those that examples provide: rank 2 for texts, rank 4 for images."""
    if rank == 2:
        given = f"Texts provide {', '.join(KNOWN_INPUTS)}, each int64 of batch x sequence"
    else:
        given = (
            "Images are one input, float32 of batch x channels x height x width, or with the channels last"
        )
    return f"{_inputs_of(found)} {given}. Export the model again so that it takes these."


def _inputs_of(found: OnnxFile) -> str:
    return f"Its inputs: {', '.join(map(str, found.inputs)) or 'none'}."


def select_output(found: OnnxFile, asked: str | None) -> Port:
    """Return the output to read: the requested one, else the first numeric tensor.

    Raises:
        ModelError: there is no such output, or it is not numeric.
    """
    said = _outputs_of(found)
    for port in found.outputs:
        if port.name == asked if asked is not None else port.is_numbers:
            if port.is_numbers:
                return port
            raise ModelError(
                f"the model's output {port} is not a numeric tensor",
                where=str(found.path),
                hint=f"{said} `--output NAME` reads another one.",
                code="wrong-outputs",
            )
    missing = "has no output that is a numeric tensor" if asked is None else f"has no output {asked!r}"
    raise ModelError(f"the model {missing}", where=str(found.path), hint=said, code="wrong-outputs")


def check_output(found: OnnxFile, interface: Interface, port: Port) -> None:
    """Check that the declared shape of an output, as far as it is known, fits the labels."""
    said = _outputs_of(found)
    if port.axes is None:
        return
    # Axes of size 1 are ignored; with more than two axes, those of unknown size may be of size 1 too.
    wide = [axis for axis in port.axes[1:] if axis != 1 and (axis != "?" or len(port.axes) == 2)]
    if len(port.axes) < 2 or len(wide) > 1:
        raise ModelError(
            f"the model's output {port} is not one row of numbers per example",
            where=str(found.path),
            hint=f"{said} `--output NAME` reads another one.",
            code="wrong-outputs",
        )
    width = wide[0] if wide else 1 if "?" not in port.axes[1:] else "?"
    if interface.outputs is not None and isinstance(width, int) and width != interface.outputs:
        raise ModelError(
            f"the model's output {port} has {width} numbers for {interface.outputs} labels",
            where=str(found.path),
            hint=f"{said} `--output NAME` reads another one, `--labels` names its numbers in order.",
            code="wrong-outputs",
        )


def _outputs_of(found: OnnxFile) -> str:
    return f"Its outputs: {', '.join(map(str, found.outputs))}."
