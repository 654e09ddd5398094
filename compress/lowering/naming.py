"""Readable names: nodes and weights are named after the module they came from."""

from __future__ import annotations

import ast

import onnx_ir as ir

from compress.lowering.graph import constant

_SCOPES = "pkg.torch.onnx.name_scopes"
_WRAPPER = "model."
_WEIGHT = ".weight"
_NAMED_OPS = ("MatMul", "Gemm", "Conv", "Gather")


def name_after_modules(model: ir.Model) -> None:
    """Name each node with a constant weight after its module (`bert.encoder.layer.0.output.dense`), and its weight
    `<module>.weight`. Biases keep the exporter's name, `model.<module>.bias`."""
    graph = model.graph
    used_names: set[str] = set()
    for node in graph:
        module = _convolution_module(node) or _scope_module(node)
        if (
            node.op_type not in _NAMED_OPS
            or not module
            or all(constant(value) is None for value in node.inputs)
        ):
            continue
        node.name = module if module not in used_names else f"{module}.{len(used_names)}"
        used_names.add(node.name)
        for value in node.inputs:
            array = constant(value)
            if value is not None and array is not None and array.ndim > 1:
                rename(graph, value, f"{node.name}.weight")


def rename(graph: ir.Graph, value: ir.Value, name: str) -> None:
    """Rename an initializer, unless the name is taken."""
    if name in graph.initializers or value.name not in graph.initializers:
        return
    del graph.initializers[value.name]
    value.name = name
    if value.const_value is not None:
        value.const_value.name = name
    graph.initializers[name] = value


def _convolution_module(node: ir.Node) -> str:
    """Return the module of a convolution's weight; the exporter names a convolution after the norm folded into it."""
    weight = node.inputs[1] if node.op_type == "Conv" else None
    name = "" if weight is None else weight.name or ""
    fits = name.startswith(_WRAPPER) and name.endswith(_WEIGHT)
    return name.removeprefix(_WRAPPER).removesuffix(_WEIGHT) if fits else ""


def _scope_module(node: ir.Node) -> str:
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    inner = [scope for scope in scopes[:-1] if scope.startswith(_WRAPPER)]
    return inner[-1].removeprefix(_WRAPPER) if inner else ""
