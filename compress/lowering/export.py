"""A torch model as an ONNX graph in memory, with named dynamic axes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import onnx_ir as ir
import torch
from transformers import PreTrainedModel

from compress.errors import PassError

OPSET = 20
"""The first opset with `Gelu`; higher ones ask for a newer runtime and bring nothing that is used here."""

MASK = "attention_mask"
EXAMPLE_SHAPE = (2, 16)


class Classifier(torch.nn.Module):
    """The model with its mask prepared: positional int64 (batch, sequence) inputs -> float32 logits (batch, labels).

    Transformers build their mask with a dozen operators that ask for more than a 0/1 mask of an encoder needs; a
    four-dimensional additive mask is taken as it is.
    """

    def __init__(self, model: PreTrainedModel, input_names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.input_names = tuple(input_names)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Logits (batch, labels)."""
        named = dict(zip(self.input_names, inputs, strict=True))
        if MASK in named:
            kept = named[MASK][:, None, None, :].to(torch.float32)
            named[MASK] = (1.0 - kept) * torch.finfo(torch.float32).min
        logits: torch.Tensor = self.model(**named).logits
        return logits


def export_graph(model: PreTrainedModel, input_names: Sequence[str]) -> ir.Model:
    """Trace `model` (float32, eval mode, eager attention) at opset 20 with the axes `batch` and `sequence`.

    Raises:
        PassError: torch cannot trace or translate the model.
    """
    batch = torch.export.Dim("batch")
    sequence = torch.export.Dim("sequence", max=_longest(model))
    example = tuple(torch.ones(EXAMPLE_SHAPE, dtype=torch.int64) for _ in input_names)
    axes = tuple({0: batch, 1: sequence} for _ in input_names)
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                Classifier(model, input_names).eval(),
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(input_names),
                output_names=["logits"],
                dynamic_shapes=(axes,),
                verbose=False,
            )
        except Exception as error:
            # The exporter raises many kinds of errors, some of them bare RuntimeErrors.
            raise PassError(f"this model cannot be exported to ONNX: {_first_line(error)}") from error
    assert program is not None
    exported: ir.Model = program.model
    return exported


def _longest(model: PreTrainedModel) -> int | None:
    """How many positions the model has; None where nothing bounds them."""
    positions = getattr(model.config, "max_position_embeddings", None)
    return None if positions is None else int(positions)


def _first_line(error: BaseException) -> str:
    root = error.__cause__ or error
    lines = str(root).strip().splitlines()
    return lines[0] if lines else type(root).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of operators that nobody asked for, and prints."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
