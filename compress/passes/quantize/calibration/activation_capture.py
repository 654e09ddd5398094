"""Inner values of a float model while it runs on examples: one example at a time, so that nothing grows with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.core.disk.files import discard
from compress.core.errors import ModelError
from compress.encoding.inputs import Batch, taken
from compress.runtimes.runner import LOGIT_POSITIONS, PAST, open_session

Floats = NDArray[np.float32]


def observe(
    path: Path,
    names: Sequence[str],
    batches: Iterator[Batch],
    work: Path,
    optional: Collection[str] = (),
) -> Iterator[Mapping[str, Floats]]:
    """The values of these names, batch after batch.

    Args:
        path: the float model.
        names: values of its graph, inputs included.
        batches: its inputs, unpadded (a padded position is no activation).
        work: where a copy of the model with more outputs may lie for a moment.
        optional: names that may be left out of a batch: sizes and indices, which are whole numbers, masks of -inf,
            and what is empty.

    Raises:
        ModelError: any other value is not a finite float32.
    """
    session, made = _publishing(path, names, work)
    for number, batch in enumerate(batches):
        found = (
            dict(zip(made, session.run(made, fed(session.get_inputs(), batch)), strict=True)) if made else {}
        )
        seen = {name: found[name] if name in found else batch[name] for name in names}
        usable = {name: values for name, values in seen.items() if _is_range_of(values)}
        for name in seen.keys() - usable.keys() - set(optional):
            finite(seen[name], name, number)
        yield usable


def fed(inputs: Collection[Any], batch: Batch) -> Batch:
    """What a model takes of a batch; a decoder has read nothing before, and gives the logits of all tokens.

    Args:
        inputs: of a session or a graph, with names and shapes.
    """
    given = taken(batch)
    first = next(iter(given.values()))
    given |= empty_past(inputs, len(first))
    if any(node.name == LOGIT_POSITIONS for node in inputs):
        given.setdefault(LOGIT_POSITIONS, np.tile(np.arange(first.shape[1]), (len(first), 1)))
    return given


def empty_past(inputs: Iterable[Any], rows: int) -> dict[str, NDArray[Any]]:
    """The cache of a decoder that has read nothing; empty for a model that keeps none.

    Args:
        inputs: of a session or a graph, with names, types and shapes.
    """
    return {
        node.name: np.zeros(
            (rows, node.shape[1], 0, node.shape[3]),
            np.int8 if "int8" in str(node.type).lower() else np.float32,
        )
        for node in inputs
        if node.name.startswith(PAST)
    }


def finite(values: Any, name: str, number: int) -> Floats:
    """Values that an example gave, unless there is something among them that no layer should read.

    Raises:
        ModelError: they are not float32, or not finite.
    """
    if not _is_range_of(values):
        raise ModelError(
            f"{name} is not finite on calibration example {number}", where="quantize", code="not-finite"
        )
    return np.asarray(values)


def _is_range_of(values: Any) -> bool:
    """Whether values have a smallest and a largest float32."""
    if not isinstance(values, np.ndarray) or values.dtype != np.float32 or not values.size:
        return False
    return bool(np.isfinite(values.sum(dtype=np.float64)))


def _publishing(path: Path, names: Sequence[str], work: Path) -> tuple[Any, list[str]]:
    """A session that gives these values as outputs, and which of them are no inputs."""
    model = ir.load(path)
    values = {value.name: value for node in model.graph for value in node.outputs}
    made = [name for name in names if name in values]
    for name in made:
        value = values[name]
        if not value.is_graph_output():
            # The session finds out the type itself: a value between others may be of any.
            value.type, value.shape = None, None
            model.graph.outputs.append(value)
    del values
    return open_written(model, work), made


def open_written(model: ir.Model, work: Path) -> Any:
    """A session over a graph.

    The weights lie beside it while the session opens: it reads such from disk, where those inside a graph would be in
    memory twice more.

    Args:
        work: where they lie for a moment.
    """
    instrumented, weights = work / "observed.onnx", work / "observed.onnx.data"
    try:
        ir.save(model, instrumented, external_data=weights.name)
        return open_session(str(instrumented))
    finally:
        discard(instrumented)
        discard(weights)
