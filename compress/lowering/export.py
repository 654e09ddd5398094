"""Exporting a torch model to an ONNX graph in memory, with named dynamic axes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.core.errors import ModelError, PassError, first_line
from compress.models.io.ensemble import Ensemble
from compress.models.io.outputs import outputs_of
from compress.models.io.plain import UserModule
from compress.models.text.sentence import SentenceEncoder

OPSET = 20
"""The first opset with `Gelu`; later ones need a newer runtime and add nothing that is used here."""

MASK = "attention_mask"
EXAMPLE_BATCH = 2
EXAMPLE_LENGTH = 16


class Traced(nn.Module):
    """The model with its mask prepared: positional inputs -> one float32 output (batch, ...).

    transformers builds its mask with a dozen operators, more than an encoder's 0/1 mask needs; a four-dimensional
    additive mask is used unchanged. A sentence encoder also pools with the 0/1 mask, and a module from user code
    receives the 0/1 mask.
    """

    def __init__(self, model: nn.Module, input_names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.input_names = tuple(input_names)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Run the model with its inputs in the order of `input_names`."""
        named = dict(zip(self.input_names, inputs, strict=True))
        kept = named.get(MASK)
        if kept is not None:
            named[MASK] = (1.0 - kept[:, None, None, :].to(torch.float32)) * torch.finfo(torch.float32).min
        return _outputs(self.model, named, kept)


def _outputs(model: nn.Module, named: dict[str, Tensor], kept: Tensor | None) -> Tensor:
    """Run a model on inputs with the prepared mask; `kept` is the 0/1 mask (batch, sequence)."""
    if isinstance(model, Ensemble):
        return model.combine([_outputs(member, named, kept) for member in model.members])
    if isinstance(model, SentenceEncoder):
        assert kept is not None
        return model.pool(model.encoder(**named).last_hidden_state, kept)
    if isinstance(model, UserModule) and kept is not None:
        named = {**named, MASK: kept}
    return outputs_of(model(**named))


@dataclass(frozen=True)
class Signature:
    """The interface of a model: example inputs by name, their dynamic axes, and the name of the output."""

    example: dict[str, Tensor]
    axes: tuple[str, ...]
    output: str


def signature_of(
    task: Mapping[str, Any], rows: int = EXAMPLE_BATCH, length: int = EXAMPLE_LENGTH
) -> Signature:
    """Return the signature that a `task.json` describes.

    Images: float32 (rows, channels, height, width), where only the batch is dynamic. Texts: int64 (rows, length).
    """
    image = task.get("image")
    axes: tuple[str, ...] = ("batch", "sequence") if image is None else ("batch",)
    if image is None:
        example = torch.ones((rows, length), dtype=torch.int64)
    else:
        example = torch.ones((rows, int(image["channels"]), *map(int, image["size"])))
    # Clone per name: the exporter would treat a tensor passed twice as one input.
    return Signature({name: example.clone() for name in task["input_names"]}, axes, task["output_names"][0])


def export_graph(model: nn.Module, signature: Signature) -> ir.Model:
    """Export `model` (float32, eval mode, eager attention) at opset 20 with named dynamic axes.

    The exporter folds a BatchNorm in eval mode into the convolution before it.

    Raises:
        PassError: torch cannot trace or translate the model.
        ModelError: likewise, for a module from user code.
    """
    bounds = {"batch": None, "sequence": _longest(model)}
    dims = {place: torch.export.Dim(name, max=bounds[name]) for place, name in enumerate(signature.axes)}
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                Traced(model, tuple(signature.example)).eval(),
                tuple(signature.example.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(signature.example),
                output_names=[signature.output],
                dynamic_shapes=(tuple(dims for _ in signature.example),),
                verbose=False,
            )
        except Exception as error:
            # The exporter raises many kinds of errors, some of them bare RuntimeErrors.
            if isinstance(model, UserModule):
                raise ModelError(
                    f"this module cannot be exported to ONNX: {first_line(error.__cause__ or error)}",
                    where=model.origin.source,
                    hint="Its forward must not depend on the values in a batch: no `if` or loop over tensor values "
                    "(use torch.where), no .item(), .tolist() or .numpy(), and only operators that ONNX has.",
                    code="module-export",
                ) from error
            raise PassError(
                f"this model cannot be exported to ONNX: {first_line(error.__cause__ or error)}"
            ) from error
    assert program is not None
    exported: ir.Model = program.model
    _free_name(exported.graph, signature.output)
    return exported


def _free_name(graph: ir.Graph, output: str) -> None:
    """Reserve the output's name for the output: the exporter names inner values after their operator."""
    for node in graph:
        for value in node.outputs:
            if value.name == output and not value.is_graph_output():
                value.name = f"{output}.inner"


def _longest(model: nn.Module) -> int | None:
    """Return the number of positions of the model; None if there is no limit."""
    configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    found = [getattr(config, "max_position_embeddings", None) for config in configs]
    return min((int(positions) for positions in found if positions is not None), default=None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's warnings about operators that are not used, and its prints."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
