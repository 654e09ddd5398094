"""What the terms of losses have in common: what they see, how widths are bridged, how they refuse."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.core.errors import ModelError, PassError
from compress.encoding.inputs import LEARNT
from compress.encoding.packing import POSITION_IDS
from compress.encoding.tokens import INPUT_IDS
from compress.losses.contract import LayerMap
from compress.training.loss_functions.attention import looks_between
from compress.training.loss_functions.vectors import token_mean
from compress.training.signals.capture import Anatomy, Signals


@dataclass(frozen=True)
class Models:
    """The two models that a term is made for; `generator` draws the first weights of what the term learns.

    `teacher` is the student's own anatomy where nobody teaches. `student_model` is the student, `mask_id` the id of its
    mask token and `special_ids` those of all its special tokens; None where it has none.
    """

    student: Anatomy
    teacher: Anatomy
    generator: torch.Generator
    student_model: nn.Module | None = None
    mask_id: int | None = None
    special_ids: Collection[int] | None = None


@dataclass(frozen=True)
class Seen:
    """One batch: the signals of both models, labels int64 (n,), real tokens bool (n, t) or None, and the inputs."""

    student: Signals
    teacher: Signals
    labels: Tensor
    mask: Tensor | None
    batch: dict[str, Tensor]

    @property
    def compared(self) -> Tensor | None:
        """Which outputs of tokens say something that is learnt, bool (n, t): those before a token that is to be
        foretold, else those of real tokens; None: all."""
        learnt = self.batch.get(LEARNT)
        return self.mask if learnt is None else functional.pad(learnt[:, 1:], (0, 1)).bool()

    @property
    def examples(self) -> Tensor:
        """How many there are."""
        return torch.tensor(len(self.labels))

    @property
    def tokens(self) -> Tensor:
        """How many tokens are `compared`; of images, which have equally many places, how many examples there are."""
        return self.examples if self.compared is None else self.compared.sum()

    def looks(self, window: int | None = None) -> Tensor:
        """Which tokens look at which in a decoder, bool (n, t, t): those that count, at themselves and at those before
        them in the same text, at most `window` of them."""
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
    """One loss; `forward` gives a float32 scalar from the signals that the term needs.

    It is the mean over what `counts` counts, so that a batch may be computed in parts; or `forward` gives several such
    means, (means,), of which the loss is the mean.
    """

    means = 1

    def __init__(self, student_needs: Iterable[str] = (), teacher_needs: Iterable[str] = ()) -> None:
        super().__init__()
        self.student_needs = frozenset(student_needs)
        self.teacher_needs = frozenset(teacher_needs)

    def forward(self, seen: Seen) -> Tensor:
        """The loss of one batch."""
        raise NotImplementedError

    def counts(self, seen: Seen) -> Tensor:
        """How many things of a batch each of its means is over, (means,); the student has not run, `seen` holds none of
        its signals. Here of texts that are gone on with the tokens that are learnt, of anything else the examples."""
        return seen.tokens if LEARNT in seen.batch else seen.examples


def rows_of(outputs: Tensor, compared: Tensor | None) -> Tensor:
    """What is compared of outputs: rows (n, k) as they are; of (n, t, k) those of some tokens, (m, k).

    Args:
        compared: bool (n, t); None: all tokens.
    """
    if outputs.ndim == 2:
        return outputs
    return outputs.flatten(0, -2) if compared is None else outputs[compared]


def attending(seen: Seen, mask: Tensor | None, *, pairs: bool) -> Tensor:
    """How many tokens look at others, or with `pairs` how many pairs of tokens look; of images, which have equally many
    places, how many examples there are.

    Args:
        mask: as of `log_attention`.
    """
    looks = looks_between(mask)
    if looks is None:
        return seen.examples
    return (looks if pairs else looks.any(-1)).sum()


def refuse(kind: str, reason: str, hint: str | None = None) -> NoReturn:
    """Say why a loss cannot compare two models.

    Raises:
        ModelError: always.
    """
    raise ModelError(reason, where=f"losses.{kind}", hint=hint)


def linear(width: int, goal: int, generator: torch.Generator, *, bias: bool = False) -> nn.Linear:
    """A linear map whose rows or columns, whichever are fewer, start orthonormal: it keeps lengths as far as it can."""
    made = nn.Linear(width, goal, bias=bias)
    nn.init.orthogonal_(made.weight, generator=generator)
    if bias:
        nn.init.zeros_(made.bias)
    return made


def projection(width: int, goal: int, generator: torch.Generator) -> nn.Module:
    """How vectors of the student reach the teacher's width.

    A learned linear map without bias (Romero et al., FitNets, 2015, arXiv:1412.6550); nothing where widths are equal
    (Sanh et al., DistilBERT, 2019), so that there the student alone can bring the loss down.
    """
    return nn.Identity() if width == goal else linear(width, goal, generator)


def layer_pairs(kind: str, wanted: LayerMap, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """Which layer of the student learns from which of the teacher: pairs (student layer, teacher layer), 0 the lowest.

    `uniform` pairs layer i of m with layer (i + 1) * n // m - 1 of n (Jiao et al., TinyBERT, 2020, arXiv:1909.10351):
    evenly spread, the last with the last. A student with more layers than its teacher is paired the other way round,
    so that each layer of the teacher teaches one of the student's.

    Args:
        kind: of the loss that compares them.
        student, teacher: how many layers each has, at least 1.

    Raises:
        ModelError: a given pair names a layer that one of them has not.
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


def check_tokens(kind: str, models: Models) -> None:
    """Refuse models without layers, or whose tokens stand for different things.

    Raises:
        ModelError: one has no layers that could be told apart, or they see images in different patches.
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
    """Token signals (n, t, d) of both models without the `extra` tokens before the patches of each.

    Raises:
        PassError: what is left differs in length.
    """
    student, teacher = student[:, extra[0] :], teacher[:, extra[1] :]
    if student.shape[:2] != teacher.shape[:2]:
        raise PassError(
            f"the student's signal covers {tuple(student.shape[:2])} examples and tokens, the teacher's "
            f"{tuple(teacher.shape[:2])}: they must split their inputs alike"
        )
    return student, teacher


def extra_tokens(models: Models) -> tuple[int, int]:
    """The class and distillation tokens of both models, which are compared with nothing: the other may lack them."""
    return models.student.extra_tokens, models.teacher.extra_tokens


def grouped(part: Tensor, width: int, size: int) -> Tensor:
    """Keys or values (n, t, groups * size) as each of the heads (n, t, width) sees those of its group."""
    if part.shape[-1] == width:
        return part
    heads = part.reshape(*part.shape[:2], -1, size)
    return heads.repeat_interleave(width // part.shape[-1], 2).flatten(2)


def check_queries(kind: str, models: Models) -> None:
    """Refuse models whose queries and keys cannot be captured."""
    check_tokens(kind, models)
    for anatomy, who in ((models.student, "student"), (models.teacher, "teacher")):
        if not anatomy.heads:
            refuse(
                kind,
                f"the {who} computes query, key and value in one map, so they cannot be separated",
                "Compare `hidden` instead.",
            )


class Pooled:
    """The representation of an example: the mean of its last hidden state over the real tokens (of an image: over the
    patches), or of its last feature map over the places."""

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
        """float32 (n, width)."""
        signal = signals[self.name].float()
        return signal.mean((2, 3)) if signal.ndim == 4 else token_mean(signal[:, self.extra :], mask)
