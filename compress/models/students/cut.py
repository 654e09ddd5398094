"""Students built from encoder teachers: selected layers, or a narrower model projected from the weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.blocks import transformer_of
from compress.models.anatomy.encoder import encoder_of
from compress.models.anatomy.observing import Batches
from compress.models.anatomy.sizes import config_keys, sizes_of
from compress.models.anatomy.stream import block_influence, estimate_stream, measure_stream
from compress.models.anatomy.table.sizes import network_of
from compress.models.students.layer_choice import choose_layers
from compress.models.students.narrowing import copy_layers, project_layers
from compress.models.text.sentence import SentenceEncoder
from compress.profile.specs.student import StudentSpec

_WHERE = "student"


@dataclass(frozen=True)
class StudentShape:
    """The shape of a student; `layers` are the teacher's layers it is built from, lowest first."""

    layers: tuple[int, ...]
    hidden: int
    heads: int
    feed_forward: int


def student_shape(teacher: nn.Module, spec: StudentSpec, batches: Batches | None = None) -> StudentShape:
    """Return the shape that a spec requests, with defaults resolved against the teacher.

    Args:
        batches: examples encoded for the teacher, on which `choose: similarity` compares its layers.

    Raises:
        ModelError: the shape does not fit the teacher, its heads do not divide its width, or there are no examples
            to compare layers on.
    """
    sizes = sizes_of(teacher)
    influence = None
    if spec.choose == "similarity" and isinstance(spec.layers, int) and batches is not None:
        influence = block_influence(teacher, [layer.block for layer in encoder_of(teacher).layers], batches)
    layers = choose_layers(spec.layers, sizes.layers, spec.choose, influence)
    hidden = spec.hidden_size or sizes.hidden
    if hidden > sizes.hidden:
        raise ModelError(
            f"hidden_size {hidden} is wider than the teacher's {sizes.hidden}", where=f"{_WHERE}.hidden_size"
        )
    max_heads = max(1, hidden // (sizes.hidden // sizes.heads))
    heads = spec.heads or next(count for count in range(max_heads, 0, -1) if hidden % count == 0)
    if hidden % heads:
        raise ModelError(f"{heads} heads do not divide the width {hidden}", where=f"{_WHERE}.heads")
    feed_forward = spec.intermediate_size or round(hidden * sizes.feed_forward / sizes.hidden)
    return StudentShape(layers, hidden, heads, feed_forward)


def make_student(
    teacher: nn.Module, spec: StudentSpec, seed: int, batches: Batches | None = None
) -> nn.Module:
    """Build a smaller model of the teacher's kind, family and labels, in float32 and eval mode.

    The teacher is not modified. The student of a text or image classifier is a classifier, that of a sentence
    encoder a sentence encoder whose embeddings have the student's width.
    `from: teacher`: a student of the teacher's width copies the weights it has room for, exactly; a narrower one is
    projected (`projection.py`) on the principal directions of the hidden states, measured on examples (`basis:
    hidden`) or estimated from the embeddings. Heads are regrouped (`attention_heads.py`), feed-forward neurons kept
    by the norms of their weights.
    `from: scratch`: weights initialised from `seed`.

    Args:
        batches: examples encoded for the teacher; a few hundred are enough.

    Raises:
        ModelError: see `student_shape`; the family is unknown; or `basis: hidden` has no examples.
    """
    shape = student_shape(teacher, spec, batches)
    old = encoder_of(teacher)
    student = _new_student(teacher, shape, seed)
    if spec.from_ == "teacher":
        new = encoder_of(student)
        with torch.no_grad():
            if shape.hidden == old.hidden_size:
                copy_layers(old, new, shape.layers)
            elif spec.basis == "embeddings":
                project_layers(old, new, shape.layers, estimate_stream(old))
            elif batches is not None:
                project_layers(old, new, shape.layers, measure_stream(old, batches))
            else:
                raise ModelError(
                    "there are no examples to compute the teacher's hidden states on",
                    where=f"{_WHERE}.basis",
                    hint="Use `basis: embeddings`.",
                )
    return student.eval()


def _new_student(teacher: nn.Module, shape: StudentShape, seed: int) -> nn.Module:
    """Build a model of the teacher's kind with this shape, its weights initialised from the seed."""
    transformer = transformer_of(teacher)
    config = _student_config(transformer, shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = type(transformer)(config)
    model.config._attn_implementation = transformer.config._attn_implementation
    student: nn.Module = model
    if isinstance(teacher, SentenceEncoder):
        student = SentenceEncoder(model, teacher.pooling, teacher.normalize)
    return student


def _student_config(teacher: PreTrainedModel, shape: StudentShape) -> PretrainedConfig:
    config: PretrainedConfig = copy.deepcopy(teacher.config)
    names = config_keys(teacher)
    hidden = getattr(config, names["hidden"])
    setattr(config, names["hidden"], shape.hidden)
    setattr(config, names["layers"], len(shape.layers))
    setattr(config, names["heads"], shape.heads)
    setattr(config, names["feed_forward"], shape.feed_forward)
    if "embedding" in names and getattr(config, names["embedding"]) == hidden:
        setattr(config, names["embedding"], shape.hidden)
    bias = network_of(config.model_type).biases.get("query")
    if shape.hidden < hidden and isinstance(bias, str):
        # The constant terms that the student's norms cannot add go into the biases instead.
        setattr(config, bias, True)
    return config
