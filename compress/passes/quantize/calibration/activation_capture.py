"""Capture intermediate activations of a float model on examples, one batch at a time, so memory use stays constant."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.core.disk.files import discard
from compress.core.errors import ModelError
from compress.encoding.inputs import Batch, model_inputs
from compress.runtimes.runner import LOGIT_POSITIONS, PAST_PREFIX, open_session

Floats = NDArray[np.float32]


def capture_activations(
    path: Path,
    names: Sequence[str],
    batches: Iterator[Batch],
    work: Path,
    optional: Collection[str] = (),
) -> Iterator[Mapping[str, Floats]]:
    """Yield the values of the named tensors, one mapping per batch.

    Args:
        path: the float model.
        names: values of its graph, inputs included.
        batches: unpadded inputs (a padded position is not an activation).
        work: folder for a temporary copy of the model with extra outputs.
        optional: names that may be missing from a batch: integers such as sizes and indices, masks with -inf, and
            empty tensors.

    Raises:
        ModelError: any other value is not a finite float32.
    """
    session, intermediate = _open_with_outputs(path, names, work)
    for batch_index, batch in enumerate(batches):
        outputs = (
            dict(
                zip(
                    intermediate,
                    session.run(intermediate, model_feeds(session.get_inputs(), batch)),
                    strict=True,
                )
            )
            if intermediate
            else {}
        )
        activations = {name: outputs[name] if name in outputs else batch[name] for name in names}
        usable = {name: values for name, values in activations.items() if _is_finite_float(values)}
        for name in activations.keys() - usable.keys() - set(optional):
            require_finite(activations[name], name, batch_index)
        yield usable


def model_feeds(inputs: Collection[Any], batch: Batch) -> Batch:
    """Return the inputs that a model takes from a batch.

    A decoder gets an empty KV cache and returns the logits of all positions.

    Args:
        inputs: of a session or a graph, with names and shapes.
    """
    feeds = model_inputs(batch)
    first = next(iter(feeds.values()))
    feeds |= empty_past(inputs, len(first))
    if any(node.name == LOGIT_POSITIONS for node in inputs):
        feeds.setdefault(LOGIT_POSITIONS, np.tile(np.arange(first.shape[1]), (len(first), 1)))
    return feeds


def empty_past(inputs: Iterable[Any], rows: int) -> dict[str, NDArray[Any]]:
    """Return an empty KV cache for a decoder; an empty dict for a model without one.

    Args:
        inputs: of a session or a graph, with names, types and shapes.
    """
    return {
        node.name: np.zeros(
            (rows, node.shape[1], 0, node.shape[3]),
            np.int8 if "int8" in str(node.type).lower() else np.float32,
        )
        for node in inputs
        if node.name.startswith(PAST_PREFIX)
    }


def require_finite(values: Any, name: str, example_index: int) -> Floats:
    """Return the values if they are finite float32.

    Args:
        example_index: index of the calibration example, for the message.

    Raises:
        ModelError: they are not float32, not finite, or empty.
    """
    if not _is_finite_float(values):
        raise ModelError(
            f"{name} is not finite on calibration example {example_index}",
            where="quantize",
            code="not-finite",
        )
    return np.asarray(values)


def _is_finite_float(values: Any) -> bool:
    """Whether the values are a non-empty, finite float32 array."""
    if not isinstance(values, np.ndarray) or values.dtype != np.float32 or not values.size:
        return False
    return bool(np.isfinite(values.sum(dtype=np.float64)))


def _open_with_outputs(path: Path, names: Sequence[str], work: Path) -> tuple[Any, list[str]]:
    """Open a session with these values as additional outputs; return it and the names that are not graph inputs."""
    model = ir.load(path)
    values = {value.name: value for node in model.graph for value in node.outputs}
    intermediate = [name for name in names if name in values]
    for name in intermediate:
        value = values[name]
        if not value.is_graph_output():
            # The session infers the type itself: an intermediate value may have any.
            value.type, value.shape = None, None
            model.graph.outputs.append(value)
    del values
    return open_from_disk(model, work), intermediate


def open_from_disk(model: ir.Model, work: Path) -> Any:
    """Open a session over a graph.

    The weights are written as external data next to the graph: a session reads those from disk, whereas weights
    embedded in the graph would take twice their size in memory on top.

    Args:
        work: folder of the temporary files.
    """
    instrumented, weights = work / "observed.onnx", work / "observed.onnx.data"
    try:
        ir.save(model, instrumented, external_data=weights.name)
        return open_session(str(instrumented))
    finally:
        discard(instrumented)
        discard(weights)
