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


class ExportWrapper(nn.Module):
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
        model_inputs = dict(zip(self.input_names, inputs, strict=True))
        token_mask = model_inputs.get(MASK)
        if token_mask is not None:
            model_inputs[MASK] = (1.0 - token_mask[:, None, None, :].to(torch.float32)) * torch.finfo(
                torch.float32
            ).min
        return _outputs(self.model, model_inputs, token_mask)


def _outputs(model: nn.Module, model_inputs: dict[str, Tensor], token_mask: Tensor | None) -> Tensor:
    """Run a model on inputs with the prepared mask; `token_mask` is the 0/1 mask (batch, sequence)."""
    if isinstance(model, Ensemble):
        return model.combine([_outputs(member, model_inputs, token_mask) for member in model.members])
    if isinstance(model, SentenceEncoder):
        assert token_mask is not None
        return model.pool(model.encoder(**model_inputs).last_hidden_state, token_mask)
    if isinstance(model, UserModule) and token_mask is not None:
        model_inputs = {**model_inputs, MASK: token_mask}
    return outputs_of(model(**model_inputs))


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
    bounds = {"batch": None, "sequence": _max_positions(model)}
    dims = {index: torch.export.Dim(name, max=bounds[name]) for index, name in enumerate(signature.axes)}
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                ExportWrapper(model, tuple(signature.example)).eval(),
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
    _reserve_name(exported.graph, signature.output)
    return exported


def _reserve_name(graph: ir.Graph, output: str) -> None:
    """Reserve the output's name for the output: the exporter names inner values after their operator."""
    for node in graph:
        for value in node.outputs:
            if value.name == output and not value.is_graph_output():
                value.name = f"{output}.inner"


def _max_positions(model: nn.Module) -> int | None:
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
