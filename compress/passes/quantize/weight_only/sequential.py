"""Inputs of layers on examples after quantization of the preceding layers, computed while the graph is being changed.

The graph is traversed once. Between two stops, only the values needed by later nodes are kept: memory grows with the
examples, but neither with the depth of the model nor with its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.encoding.inputs import Batch
from compress.passes.quantize.calibration.activation_capture import fed, open_from_disk, require_finite

Floats = NDArray[np.float32]


class Sequential:
    """Examples propagated through a graph stage by stage.

    Args:
        graph: nodes after the last stop may still be changed.
        batches: starts an iteration over unpadded examples (a padded position is not an activation).
        work: folder for a temporary part of the graph.
    """

    def __init__(self, graph: ir.Graph, batches: Callable[[], Iterator[Batch]], work: Path) -> None:
        self.graph, self.work = graph, work
        given = {value.name: value for value in graph.inputs}
        self.examples = [
            {given[name]: array for name, array in fed(graph.inputs, batch).items()} for batch in batches()
        ]
        self.last: ir.Node | None = None
        """The last node that has been run."""

    def values(self, source: ir.Value, place: ir.Node) -> Iterator[Floats]:
        """Run all nodes before `place` and yield `source` for each example; `place` must be after the last stop.

        Raises:
            ModelError: a value is not finite.
        """
        self._run_to(place)
        for number, example in enumerate(self.examples):
            yield require_finite(example[source], source.name or "", number)

    def _run_to(self, place: ir.Node) -> None:
        nodes = list(self.graph)
        start = 0 if self.last is None else nodes.index(self.last) + 1
        end = nodes.index(place)
        if start >= end:
            return
        self.last = nodes[end - 1]
        behind, stage = set(nodes[:end]), set(nodes[start:end])

        def read_behind(value: ir.Value) -> bool:
            return any(use.node not in behind for use in value.uses())

        made = [value for node in nodes[start:end] for value in node.outputs if read_behind(value)]
        if not made:
            return
        known = list(self.examples[0])
        read = [value for value in known if any(use.node in stage for use in value.uses())]
        kept = [value for value in known if value.is_graph_input() or read_behind(value)]
        part = ir.convenience.extract(self.graph, read, made)
        for inner, value in zip(part.inputs, read, strict=True):
            inner.type = ir.TensorType(ir.DataType.from_numpy(self.examples[0][value].dtype))
        for inner in part.outputs:
            inner.type, inner.shape = None, None
        model = ir.Model(part, ir_version=10)
        session = open_from_disk(model, self.work)
        names = [value.name for value in part.outputs]
        for place_, example in enumerate(self.examples):
            feed = {inner.name: example[value] for inner, value in zip(part.inputs, read, strict=True)}
            found = session.run(names, feed)
            self.examples[place_] = {value: example[value] for value in kept} | dict(
                zip(made, found, strict=True)
            )
