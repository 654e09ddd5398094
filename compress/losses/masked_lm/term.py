"""Term of `masked_lm`: the student runs a second time, on masked inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from compress.losses.masked_lm.spec import MaskedLmLoss
from compress.training.loss_functions.masked_lm import mask_tokens, masked_lm_cross_entropy
from compress.training.objective.terms import LossInputs, ModelPair, Term, linear, refuse
from compress.training.signals.capture import Recorder


class MaskedLmTerm(Term):
    """Predict masked tokens from the student's last hidden state.

    The head is BERT's: dense, GELU, LayerNorm, then the student's own word embeddings as decoder, with a
    separate bias. The student is not a submodule, so its weights are not listed twice.
    """

    special: Tensor

    def __init__(self, spec: MaskedLmLoss, models: ModelPair) -> None:
        student, model, mask_id = models.student, models.student_model, models.mask_id
        words = None if model is None else _words(model)
        if model is None or words is None or student.hidden is None:
            refuse(
                "masked_lm", "the student is not a transformer that reads tokens", "Leave `masked_lm` out."
            )
        if mask_id is None or mask_id < 0 or models.special_ids is None:
            refuse("masked_lm", "the student's tokenizer has no mask token", "Leave `masked_lm` out.")
        super().__init__()
        self.last = f"hidden.{student.layers - 1}"
        # In a tuple, so that they are not registered as submodules.
        self._student = (model, words, Recorder(model, {self.last}))
        self.share = spec.share
        self.mask_id = mask_id
        self.dense = linear(student.hidden, words.embedding_dim, models.generator, bias=True)
        self.norm = nn.LayerNorm(words.embedding_dim)
        self.bias = nn.Parameter(torch.zeros(words.num_embeddings))
        self.register_buffer(
            "special", torch.tensor(sorted({mask_id, *models.special_ids})), persistent=False
        )

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch; runs the student once more, in its current mode."""
        model, words, recorder = self._student
        ids, may_change = seen.batch["input_ids"], self._may_change(seen)
        masked, chosen = mask_tokens(ids, may_change, self.share, self.mask_id, words.num_embeddings)
        with recorder:
            model(**{**seen.batch, "input_ids": masked})
            hidden = recorder.take()[self.last]
        guesses = self.norm(functional.gelu(self.dense(hidden[chosen].float())))
        return masked_lm_cross_entropy(functional.linear(guesses, words.weight, self.bias), ids[chosen])

    def counts(self, seen: LossInputs) -> Tensor:
        """Count the tokens that may be masked: the masked ones are only drawn in `forward`."""
        return self._may_change(seen).sum()

    def _may_change(self, seen: LossInputs) -> Tensor:
        """Return which tokens are real and not special, bool (n, t)."""
        found = ~torch.isin(seen.batch["input_ids"], self.special)
        return found if seen.mask is None else found & seen.mask


def _words(model: nn.Module) -> nn.Embedding | None:
    """Return the word embeddings of the transformer inside a model; None if there are none."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            words = module.get_input_embeddings()
            return words if isinstance(words, nn.Embedding) else None
    return None
