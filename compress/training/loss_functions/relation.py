"""Self-attention relation loss; widths and heads of the two models may differ."""

from __future__ import annotations

from torch import Tensor

from compress.training.loss_functions.attention import attention_kl, attention_scores, log_attention


def relation_kl(
    student_from: Tensor,
    student_to: Tensor,
    teacher_from: Tensor,
    teacher_to: Tensor,
    heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    """KL divergence from the teacher's token relations to the student's, the mean over heads and real tokens.

    A relation is `softmax(A B^T / sqrt(size))`, with A and B among the queries, keys and values of a layer.
    Their concatenated heads are split anew into `heads` relation heads, the same number for both models.
    Wang et al., MiniLM, 2020 (arXiv:2002.10957): query-key and value-value; MiniLMv2, 2021 (arXiv:2012.15828):
    query-query, key-key, value-value, any number of relation heads.

    Args:
        student_from, student_to: A and B of the student (n, t, width); `heads` divides the width.
        teacher_from, teacher_to: those of the teacher (n, t, width); no gradient reaches them.
        heads: number of relation heads.
        mask: as in `log_attention`.
    """
    student = log_attention(attention_scores(student_from, student_to, heads), mask)
    teacher = log_attention(attention_scores(teacher_from.detach(), teacher_to.detach(), heads), mask)
    return attention_kl(student, teacher, mask)
