"""Losses as pure functions of tensors, one file a kind; each is a float32 scalar, and sends no gradient to a teacher.

Each is 0 where the student equals the teacher, but for those that compare with one class or one example:
`hard_label_cross_entropy`, `label_cross_entropy`, `info_nce`, `masked_lm_cross_entropy`.
"""

from compress.training.losses.labels import balanced_weights, label_cross_entropy
from compress.training.losses.logits import logits_kl

__all__ = ["balanced_weights", "label_cross_entropy", "logits_kl"]
