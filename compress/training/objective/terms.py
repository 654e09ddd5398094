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
    def compared(self) -> Tensor | None:
        """Mask of the token outputs that are trained on, bool (n, t); None: all.

        For causal language models the positions before a target token, else the real tokens.
        """
        learnt = self.batch.get(LOSS_MASK)
        return self.mask if learnt is None else functional.pad(learnt[:, 1:], (0, 1)).bool()

    @property
    def examples(self) -> Tensor:
        """Number of examples."""
        return torch.tensor(len(self.labels))

    @property
    def tokens(self) -> Tensor:
        """Number of tokens that are `compared`; for images, whose number of positions is constant, of examples."""
        return self.examples if self.compared is None else self.compared.sum()

    def looks(self, window: int | None = None) -> Tensor:
        """Return the causal attention mask of a decoder, bool (n, t, t).

        Query tokens are those that are `compared`; each attends to itself and to the tokens before it in the
        same packed text, at most `window` in all.
        """
        ids = self.batch[INPUT_IDS]
        places = torch.arange(ids.shape[1], device=ids.device)
        back = places[:, None] - places[None, :]
        found = (back >= 0) & (back < (window or ids.shape[1]))
        if POSITION_IDS in self.batch:
            text = (self.batch[POSITION_IDS] == 0).cumsum(1)
            found = found & (text[:, :, None] == text[:, None, :])
        found = found.expand(len(ids), -1, -1)
        if self.compared is not None:
            found = found & self.compared[:, :, None]
        return found if self.mask is None else found & self.mask[:, None, :]


class Term(nn.Module):
    """One loss; `forward` returns a float32 scalar from the signals that the term needs.

    It is the mean over the items that `counts` counts, so that a batch may be computed in parts; or `forward`
    returns several such means, (means,), of which the loss is the mean.
    """

    means = 1

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


def rows_of(outputs: Tensor, compared: Tensor | None) -> Tensor:
    """Return the compared rows of outputs: (n, k) unchanged; of (n, t, k) those of the selected tokens, (m, k).

    Args:
        compared: bool (n, t); None: all tokens.
    """
    if outputs.ndim == 2:
        return outputs
    return outputs.flatten(0, -2) if compared is None else outputs[compared]


def attention_items(seen: LossInputs, mask: Tensor | None, *, pairs: bool) -> Tensor:
    """Return the number of unmasked query tokens, or with `pairs` of pairs; without a mask, of examples.

    Images have no mask: all have the same number of positions.

    Args:
        mask: as in `log_attention`.
    """
    looks = pair_mask(mask)
    if looks is None:
        return seen.examples
    return (looks if pairs else looks.any(-1)).sum()


def refuse(kind: str, reason: str, hint: str | None = None) -> NoReturn:
    """Raise the error that a loss cannot compare two models.

    Raises:
        ModelError: always.
    """
    raise ModelError(reason, where=f"losses.{kind}", hint=hint)


def linear(width: int, goal: int, generator: torch.Generator, *, bias: bool = False) -> nn.Linear:
    """Return a linear layer initialized with orthonormal rows or columns, whichever are fewer.

    This preserves lengths as far as possible.
    """
    made = nn.Linear(width, goal, bias=bias)
    nn.init.orthogonal_(made.weight, generator=generator)
    if bias:
        nn.init.zeros_(made.bias)
    return made


def projection(width: int, goal: int, generator: torch.Generator) -> nn.Module:
    """Return the map from the student's width to the teacher's.

    A learned linear layer without bias (Romero et al., FitNets, 2015, arXiv:1412.6550); the identity if widths
    are equal (Sanh et al., DistilBERT, 2019), so that only the student can reduce the loss.
    """
    return nn.Identity() if width == goal else linear(width, goal, generator)


def layer_pairs(kind: str, wanted: LayerMap, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
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
    if wanted == "last":
        return ((student - 1, teacher - 1),)
    if wanted == "uniform":
        if student <= teacher:
            return tuple((i, (i + 1) * teacher // student - 1) for i in range(student))
        return tuple(((i + 1) * student // teacher - 1, i) for i in range(teacher))
    for mine, theirs in wanted:
        for layer, count, who in ((mine, student, "student"), (theirs, teacher, "teacher")):
            if layer >= count:
                raise ModelError(
                    f"the pair [{mine}, {theirs}] names layer {layer} of the {who}, whose layers are 0 to {count - 1}",
                    where=f"losses.{kind}.layers",
                    hint="Use pairs [student layer, teacher layer], `uniform` or `last`.",
                )
    return wanted


def check_tokens(kind: str, models: ModelPair) -> None:
    """Check that both models have layers and that their tokens correspond.

    Raises:
        ModelError: one has no distinguishable layers, or they split images into different patches.
    """
    for anatomy, who in ((models.student, "student"), (models.teacher, "teacher")):
        if not anatomy.layers:
            refuse(
                kind, f"the {who} has no transformer layers", "Compare `logits`, `output` or `similarity`."
            )
    mine, theirs = models.student.patches, models.teacher.patches
    if mine != theirs:
        shown = " and ".join("words" if count is None else f"{count} patches" for count in (mine, theirs))
        refuse(kind, f"positions do not match: student and teacher see {shown}", "Give equal patches.")


def aligned(student: Tensor, teacher: Tensor, extra: tuple[int, int]) -> tuple[Tensor, Tensor]:
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


def grouped(part: Tensor, width: int, size: int) -> Tensor:
    """Expand grouped-query keys or values (n, t, groups * size) to one copy per head, (n, t, width)."""
    if part.shape[-1] == width:
        return part
    heads = part.reshape(*part.shape[:2], -1, size)
    return heads.repeat_interleave(width // part.shape[-1], 2).flatten(2)


def check_queries(kind: str, models: ModelPair) -> None:
    """Check that the queries and keys of both models can be captured.

    Raises:
        ModelError: they cannot.
    """
    check_tokens(kind, models)
    for anatomy, who in ((models.student, "student"), (models.teacher, "teacher")):
        if not anatomy.heads:
            refuse(
                kind,
                f"the {who} computes query, key and value in one map, so they cannot be separated",
                "Compare `hidden` instead.",
            )


class Pooled:
    """Pooled representation of an example.

    The mean of its last hidden state over the real tokens (for images: over the patches), or of its last
    feature map over the positions.
    """

    def __init__(self, kind: str, anatomy: Anatomy, who: str) -> None:
        self.extra = anatomy.extra_tokens
        if anatomy.layers and anatomy.hidden is not None:
            self.name, self.width = f"hidden.{anatomy.layers - 1}", anatomy.hidden
        elif anatomy.features:
            self.name, self.width = f"feature.{anatomy.features[-1].name}", anatomy.features[-1].channels
        else:
            hint = "Set `representation: outputs`." if kind == "similarity" else None
            refuse(kind, f"the {who} has no layers and no feature maps to average", hint)

    def __call__(self, signals: Signals, mask: Tensor | None) -> Tensor:
        """Return float32 (n, width)."""
        signal = signals[self.name].float()
        return signal.mean((2, 3)) if signal.ndim == 4 else token_mean(signal[:, self.extra :], mask)
