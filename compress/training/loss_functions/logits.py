"""Losses on the teacher's predictions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from compress.losses.contract import Divergence
from compress.training.loss_functions.precision import in_float32


@in_float32
def divergence(
    student: Tensor, teacher: Tensor, temperature: float, kind: Divergence = "forward", mix: float = 0.5
) -> Tensor:
    """Divergence of q = softmax(student / T) from p = softmax(teacher / T), averaged over the rows, times T^2.

    Nonnegative, 0 where the two softmaxes agree. T^2 keeps the size of the gradients the same for every T.
    `forward` KL(p || q), mode-covering: q covers everything that p considers possible (Hinton, Vinyals, Dean:
    Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531);
    `reverse` KL(q || p), mode-seeking: q keeps to what p considers likely (Gu et al., MiniLLM, 2023,
    arXiv:2306.08543);
    `jsd` b KL(p || m) + (1 - b) KL(q || m) with m = b p + (1 - b) q (Agarwal et al., GKD, 2023, arXiv:2306.13649);
    `skew` KL(p || a p + (1 - a) q) and `skew_reverse` KL(q || (1 - a) p + a q), whose gradients stay bounded
    where the other distribution is near 0 (Ko et al., DistiLLM, 2024, arXiv:2402.03898).

    Args:
        student: logits (n, classes), any float type.
        teacher: logits (n, classes); no gradient reaches them.
        temperature: T > 0.
        mix: b or a, between 0 and 1; ignored by the other kinds.
    """
    p = functional.log_softmax(teacher.detach() / temperature, dim=-1)
    q = functional.log_softmax(student / temperature, dim=-1)
    if kind == "forward":
        value = _kl(p, q)
    elif kind == "reverse":
        value = _kl(q, p)
    elif kind == "jsd":
        mean = _mixture(p, q, mix)
        value = mix * _kl(p, mean) + (1 - mix) * _kl(q, mean)
    elif kind == "skew":
        value = _kl(p, _mixture(p, q, mix))
    else:
        value = _kl(q, _mixture(q, p, mix))
    return value * temperature**2


@in_float32
def hard_label_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy with the teacher's most probable class, averaged over the examples.

    Touvron et al., Training data-efficient image transformers & distillation through attention, 2021
    (arXiv:2012.12877), "hard-label distillation".

    Args:
        student: logits (n, classes), any float type.
        teacher: logits (n, classes); no gradient reaches them.
    """
    return functional.cross_entropy(student, teacher.argmax(-1))


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities (n, classes), averaged over the rows."""
    return functional.kl_div(q, p, reduction="batchmean", log_target=True)


def _mixture(p: Tensor, q: Tensor, share: float) -> Tensor:
    """Return log(share * p + (1 - share) * q) for log-probabilities p and q."""
    return torch.logaddexp(p + math.log(share), q + math.log1p(-share))
