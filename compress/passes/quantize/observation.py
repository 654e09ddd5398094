"""Inner values of a float model while it runs on examples: one example at a time, so that nothing grows with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.errors import ModelError
from compress.files import discard
from compress.runtimes.runner import open_session
from compress.tasks.base import Batch

Floats = NDArray[np.float32]


def observe(
    path: Path, names: Sequence[str], batches: Iterator[Batch], work: Path
) -> Iterator[Mapping[str, Floats]]:
    """The values of these names, batch after batch.

    Args:
        path: the float model.
        names: values of its graph, inputs included.
        batches: its inputs, unpadded (a padded position is no activation).
        work: where a copy of the model with more outputs may lie for a moment.

    Raises:
        ModelError: a value is not finite.
    """
    session, made = _publishing(path, names, work)
    for number, batch in enumerate(batches):
        found = dict(zip(made, session.run(made, dict(batch)), strict=True)) if made else {}
        seen = {name: found[name] if name in found else batch[name] for name in names}
        for name, values in seen.items():
            if not np.isfinite(values.sum(dtype=np.float64)):
                raise ModelError(f"{name} is not finite on calibration example {number}", where="quantize")
        yield seen


def _publishing(path: Path, names: Sequence[str], work: Path) -> tuple[Any, list[str]]:
    """A session that gives these values as outputs, and which of them are no inputs.

    The weights lie beside the graph while the session opens: it reads such from disk, where those inside a graph would
    be in memory twice more.
    """
    model = ir.load(path)
    values = {value.name: value for node in model.graph for value in node.outputs}
    made = [name for name in names if name in values]
    for name in made:
        value = values[name]
        value.type = ir.TensorType(ir.DataType.FLOAT)
        if not value.is_graph_output():
            model.graph.outputs.append(value)
    instrumented, weights = work / "observed.onnx", work / "observed.onnx.data"
    try:
        ir.save(model, instrumented, external_data=weights.name)
        del model, values
        return open_session(str(instrumented)), made
    finally:
        discard(instrumented)
        discard(weights)
