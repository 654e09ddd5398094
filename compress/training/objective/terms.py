"""What loss terms share: their inputs, projections between widths, pairing of layers, refusals."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.core.errors import ModelError, PassError
from compress.encoding.inputs import LOSS_MASK
from compress.encoding.packing import POSITION_IDS
from compress.encoding.tokens import INPUT_IDS
from compress.losses.contract import LayerMap
from compress.training.loss_functions.attention import pair_mask
from compress.training.loss_functions.vectors import token_mean
from compress.training.signals.capture import Anatomy, Signals


@dataclass(frozen=True)
class ModelPair:
    """The two models that a term is built for; `generator` initializes the term's learned weights.

    `teacher` is the student's own anatomy if there is no teacher. `student_model` is the student, `mask_id` the
    id of its mask token and `special_ids` the ids of all its special tokens; None where it has none.
    """

    student: Anatomy
    teacher: Anatomy
    generator: torch.Generator
    student_model: nn.Module | None = None
    mask_id: int | None = None
    special_ids: Collection[int] | None = None


@dataclass(frozen=True)
class LossInputs:
    """One batch: the signals of both models, labels int64 (n,), real tokens bool (n, t) or None, model inputs."""

    student: Signals
    teacher: Signals
    labels: Tensor
    mask: Tensor | None
    batch: dict[str, Tensor]

    @property
    def output_mask(self) -> Tensor | None:
        """Mask of the token outputs that are trained on, bool (n, t); None: all.

        For causal language models the positions before a target token, else the real tokens.
        """
        loss_mask = self.batch.get(LOSS_MASK)
        return self.mask if loss_mask is None else functional.pad(loss_mask[:, 1:], (0, 1)).bool()

    @property
    def examples(self) -> Tensor:
        """Number of examples."""
        return torch.tensor(len(self.labels))

    @property
    def tokens(self) -> Tensor:
        """Number of tokens that are `output_mask`; for images, whose number of positions is constant, of examples."""
        return self.examples if self.output_mask is None else self.output_mask.sum()

    def causal_mask(self, window: int | None = None) -> Tensor:
        """Return the causal attention mask of a decoder, bool (n, t, t).

        Query tokens are those that are `output_mask`; each attends to itself and to the tokens before it in the
        same packed text, at most `window` in all.
        """
        ids = self.batch[INPUT_IDS]
        positions = torch.arange(ids.shape[1], device=ids.device)
        distance = positions[:, None] - positions[None, :]
        mask = (distance >= 0) & (distance < (window or ids.shape[1]))
        if POSITION_IDS in self.batch:
            text_numbers = (self.batch[POSITION_IDS] == 0).cumsum(1)
            mask = mask & (text_numbers[:, :, None] == text_numbers[:, None, :])
        mask = mask.expand(len(ids), -1, -1)
        if self.output_mask is not None:
            mask = mask & self.output_mask[:, :, None]
        return mask if self.mask is None else mask & self.mask[:, None, :]


class Term(nn.Module):
    """One loss; `forward` returns a float32 scalar from the signals that the term needs.

    It is the mean over the items that `counts` counts, so that a batch may be computed in parts; or `forward`
    returns several such means, (means,), of which the loss is the mean.
    """

    num_means = 1

    def __init__(self, student_needs: Iterable[str] = (), teacher_needs: Iterable[str] = ()) -> None:
        super().__init__()
        self.student_needs = frozenset(student_needs)
        self.teacher_needs = frozenset(teacher_needs)

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch."""
        raise NotImplementedError

    def counts(self, seen: LossInputs) -> Tensor:
        """Return the number of items in each mean, (means,); the student's signals are not available yet.

        By default target tokens for causal language models, else examples.
        """
        return seen.tokens if LOSS_MASK in seen.batch else seen.examples


def rows_of(outputs: Tensor, mask: Tensor | None) -> Tensor:
    """Return the compared rows of outputs: (n, k) unchanged; of (n, t, k) those of the selected tokens, (m, k).

    Args:
        mask: bool (n, t); None: all tokens.
    """
    if outputs.ndim == 2:
        return outputs
    return outputs.flatten(0, -2) if mask is None else outputs[mask]


def attention_items(seen: LossInputs, mask: Tensor | None, *, pairs: bool) -> Tensor:
    """Return the number of unmasked query tokens, or with `pairs` of pairs; without a mask, of examples.

    Images have no mask: all have the same number of positions.

    Args:
        mask: as in `log_attention`.
    """
    unmasked = pair_mask(mask)
    if unmasked is None:
        return seen.examples
    return (unmasked if pairs else unmasked.any(-1)).sum()


def refuse(kind: str, reason: str, hint: str | None = None) -> NoReturn:
    """Raise the error that a loss cannot compare two models.

    Raises:
        ModelError: always.
    """
    raise ModelError(reason, where=f"losses.{kind}", hint=hint)


def orthogonal_linear(
    in_features: int, out_features: int, generator: torch.Generator, *, bias: bool = False
) -> nn.Linear:
    """Return a linear layer initialized with orthonormal rows or columns, whichever are fewer.

    This preserves lengths as far as possible.
    """
    layer = nn.Linear(in_features, out_features, bias=bias)
    nn.init.orthogonal_(layer.weight, generator=generator)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def projection(in_features: int, out_features: int, generator: torch.Generator) -> nn.Module:
    """Return the map from the student's width to the teacher's.

    A learned linear layer without bias (Romero et al., FitNets, 2015, arXiv:1412.6550); the identity if widths
    are equal (Sanh et al., DistilBERT, 2019), so that only the student can reduce the loss.
    """
    return (
        nn.Identity()
        if in_features == out_features
        else orthogonal_linear(in_features, out_features, generator)
    )


def layer_pairs(kind: str, layer_map: LayerMap, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs (student layer, teacher layer) to compare, counted from 0 at the bottom.

    `uniform` pairs layer i of m with layer (i + 1) * n // m - 1 of n (Jiao et al., TinyBERT, 2020,
    arXiv:1909.10351): evenly spaced, the last with the last. If the student has more layers than its teacher,
    the roles are swapped, so that each teacher layer teaches one student layer.

    Args:
        kind: name of the loss, for the error message.
        student, teacher: number of layers of each, at least 1.

    Raises:
        ModelError: a given pair names a layer that does not exist.
    """
    if layer_map == "last":
        return ((student - 1, teacher - 1),)
    if layer_map == "uniform":
        if student <= teacher:
            return tuple((i, (i + 1) * teacher // student - 1) for i in range(student))
        return tuple(((i + 1) * student // teacher - 1, i) for i in range(teacher))
    for student_layer, teacher_layer in layer_map:
        for layer, num_layers, role in (
            (student_layer, student, "student"),
            (teacher_layer, teacher, "teacher"),
        ):
            if layer >= num_layers:
                raise ModelError(
                    f"the pair [{student_layer}, {teacher_layer}] names layer {layer} of the {role}, whose "
                    f"layers are 0 to {num_layers - 1}",
                    where=f"losses.{kind}.layers",
                    hint="Use pairs [student layer, teacher layer], `uniform` or `last`.",
                )
    return layer_map


def check_tokens(kind: str, models: ModelPair) -> None:
    """Check that both models have layers and that their tokens correspond.

    Raises:
        ModelError: one has no distinguishable layers, or they split images into different patches.
    """
    for anatomy, role in ((models.student, "student"), (models.teacher, "teacher")):
        if not anatomy.num_layers:
            refuse(
                kind, f"the {role} has no transformer layers", "Compare `logits`, `output` or `similarity`."
            )
    student_patches, teacher_patches = models.student.num_patches, models.teacher.num_patches
    if student_patches != teacher_patches:
        descriptions = " and ".join(
            "words" if count is None else f"{count} patches" for count in (student_patches, teacher_patches)
        )
        refuse(kind, f"positions do not match: student and teacher see {descriptions}", "Give equal patches.")


def align_tokens(student: Tensor, teacher: Tensor, extra: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return token signals (n, t, d) of both models without the `extra` tokens before the patches of each.

    Raises:
        PassError: the rest differs in length.
    """
    student, teacher = student[:, extra[0] :], teacher[:, extra[1] :]
    if student.shape[:2] != teacher.shape[:2]:
        raise PassError(
            f"the student's signal covers {tuple(student.shape[:2])} examples and tokens, the teacher's "
            f"{tuple(teacher.shape[:2])}: they must split their inputs alike"
        )
    return student, teacher


def extra_tokens(models: ModelPair) -> tuple[int, int]:
    """Return the numbers of class and distillation tokens of both models.

    They are not compared, since the other model may lack them.
    """
    return models.student.extra_tokens, models.teacher.extra_tokens


def expand_groups(states: Tensor, width: int, head_size: int) -> Tensor:
    """Expand grouped-query keys or values (n, t, groups * size) to one copy per head, (n, t, width)."""
    if states.shape[-1] == width:
        return states
    heads = states.reshape(*states.shape[:2], -1, head_size)
    return heads.repeat_interleave(width // states.shape[-1], 2).flatten(2)


def check_queries(kind: str, models: ModelPair) -> None:
    """Check that the queries and keys of both models can be captured.

    Raises:
        ModelError: they cannot.
    """
    check_tokens(kind, models)
    for anatomy, role in ((models.student, "student"), (models.teacher, "teacher")):
        if not anatomy.head_counts:
            refuse(
                kind,
                f"the {role} computes query, key and value in one map, so they cannot be separated",
                "Compare `hidden` instead.",
            )


class Pooled:
    """Pooled representation of an example.

    The mean of its last hidden state over the real tokens (for images: over the patches), or of its last
    feature map over the positions.
    """

    def __init__(self, kind: str, anatomy: Anatomy, role: str) -> None:
        self.extra_tokens = anatomy.extra_tokens
        if anatomy.num_layers and anatomy.hidden_size is not None:
            self.name, self.width = f"hidden.{anatomy.num_layers - 1}", anatomy.hidden_size
        elif anatomy.features:
            self.name, self.width = f"feature.{anatomy.features[-1].name}", anatomy.features[-1].channels
        else:
            hint = "Set `representation: outputs`." if kind == "similarity" else None
            refuse(kind, f"the {role} has no layers and no feature maps to average", hint)

    def __call__(self, signals: Signals, mask: Tensor | None) -> Tensor:
        """Return float32 (n, width)."""
        signal = signals[self.name].float()
        return signal.mean((2, 3)) if signal.ndim == 4 else token_mean(signal[:, self.extra_tokens :], mask)
