"""The teacher's predictions as a goal."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from compress.training.losses.precision import in_float32


@in_float32
def logits_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's softened probabilities to the student's, times T^2.

    `T^2 * mean_n sum_c p_nc (log p_nc - log q_nc)` with `p = softmax(teacher / T)` and
    `q = softmax(student / T)`: never negative, 0 where the two softmaxes agree. T^2 keeps the size of the
    gradients the same for every T.
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015 (arXiv:1503.02531).

    Args:
        student: logits (n, classes), any float type.
        teacher: logits (n, classes); no gradient reaches them.
        temperature: T > 0.
    """
    goal = functional.log_softmax(teacher.detach() / temperature, dim=-1)
    guess = functional.log_softmax(student / temperature, dim=-1)
    return functional.kl_div(guess, goal, reduction="batchmean", log_target=True) * temperature**2


@in_float32
def hard_label_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy with the teacher's most probable class, the mean over the examples.

    Touvron et al., Training data-efficient image transformers & distillation through attention, 2021
    (arXiv:2012.12877), "hard-label distillation".

    Args:
        student: logits (n, classes), any float type.
        teacher: logits (n, classes); no gradient reaches them.
    """
    return functional.cross_entropy(student, teacher.argmax(-1))
