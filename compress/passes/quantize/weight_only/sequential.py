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
from compress.passes.quantize.calibration.activation_capture import (
    model_feeds,
    open_from_disk,
    require_finite,
)

Floats = NDArray[np.float32]


class SequentialActivations:
    """Examples propagated through a graph stage by stage.

    Args:
        graph: nodes after the last stop may still be changed.
        batches: starts an iteration over unpadded examples (a padded position is not an activation).
        work: folder for a temporary part of the graph.
    """

    def __init__(self, graph: ir.Graph, batches: Callable[[], Iterator[Batch]], work: Path) -> None:
        self.graph, self.work = graph, work
        inputs_by_name = {value.name: value for value in graph.inputs}
        self.examples = [
            {inputs_by_name[name]: array for name, array in model_feeds(graph.inputs, batch).items()}
            for batch in batches()
        ]
        self.last_node: ir.Node | None = None
        """The last node that has been run."""

    def values(self, source: ir.Value, node: ir.Node) -> Iterator[Floats]:
        """Run all nodes before `node` and yield `source` for each example; `node` must be after the last stop.

        Raises:
            ModelError: a value is not finite.
        """
        self._run_until(node)
        for number, example in enumerate(self.examples):
            yield require_finite(example[source], source.name or "", number)

    def _run_until(self, stop_node: ir.Node) -> None:
        nodes = list(self.graph)
        start = 0 if self.last_node is None else nodes.index(self.last_node) + 1
        end = nodes.index(stop_node)
        if start >= end:
            return
        self.last_node = nodes[end - 1]
        executed, stage = set(nodes[:end]), set(nodes[start:end])

        def is_needed_later(value: ir.Value) -> bool:
            return any(use.node not in executed for use in value.uses())

        outputs = [value for node in nodes[start:end] for value in node.outputs if is_needed_later(value)]
        if not outputs:
            return
        available = list(self.examples[0])
        stage_inputs = [value for value in available if any(use.node in stage for use in value.uses())]
        carried = [value for value in available if value.is_graph_input() or is_needed_later(value)]
        subgraph = ir.convenience.extract(self.graph, stage_inputs, outputs)
        for stage_value, value in zip(subgraph.inputs, stage_inputs, strict=True):
            stage_value.type = ir.TensorType(ir.DataType.from_numpy(self.examples[0][value].dtype))
        for stage_value in subgraph.outputs:
            stage_value.type, stage_value.shape = None, None
        model = ir.Model(subgraph, ir_version=10)
        session = open_from_disk(model, self.work)
        names = [value.name for value in subgraph.outputs]
        for index, example in enumerate(self.examples):
            feed = {
                stage_value.name: example[value]
                for stage_value, value in zip(subgraph.inputs, stage_inputs, strict=True)
            }
            found = session.run(names, feed)
            self.examples[index] = {value: example[value] for value in carried} | dict(
                zip(outputs, found, strict=True)
            )
