"""Term of `masked_lm`: the student runs a second time, on masked inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from compress.losses.masked_lm.spec import MaskedLmLoss
from compress.training.loss_functions.masked_lm import mask_tokens, masked_lm_cross_entropy
from compress.training.objective.terms import LossInputs, ModelPair, Term, orthogonal_linear, refuse
from compress.training.signals.capture import Recorder


class MaskedLmTerm(Term):
    """Predict masked tokens from the student's last hidden state.

    The head is BERT's: dense, GELU, LayerNorm, then the student's own word embeddings as decoder, with a
    separate bias. The student is not a submodule, so its weights are not listed twice.
    """

    special: Tensor

    def __init__(self, spec: MaskedLmLoss, models: ModelPair) -> None:
        student, model, mask_id = models.student, models.student_model, models.mask_id
        embeddings = None if model is None else _word_embeddings(model)
        if model is None or embeddings is None or student.hidden_size is None:
            refuse(
                "masked_lm", "the student is not a transformer that reads tokens", "Leave `masked_lm` out."
            )
        if mask_id is None or mask_id < 0 or models.special_ids is None:
            refuse("masked_lm", "the student's tokenizer has no mask token", "Leave `masked_lm` out.")
        super().__init__()
        self.last_hidden = f"hidden.{student.num_layers - 1}"
        # In a tuple, so that they are not registered as submodules.
        self._student = (model, embeddings, Recorder(model, {self.last_hidden}))
        self.share = spec.share
        self.mask_id = mask_id
        self.dense = orthogonal_linear(
            student.hidden_size, embeddings.embedding_dim, models.generator, bias=True
        )
        self.norm = nn.LayerNorm(embeddings.embedding_dim)
        self.bias = nn.Parameter(torch.zeros(embeddings.num_embeddings))
        self.register_buffer(
            "special", torch.tensor(sorted({mask_id, *models.special_ids})), persistent=False
        )

    def forward(self, seen: LossInputs) -> Tensor:
        """Return the loss of one batch; runs the student once more, in its current mode."""
        model, embeddings, recorder = self._student
        ids, maskable = seen.batch["input_ids"], self._maskable(seen)
        masked, selected = mask_tokens(ids, maskable, self.share, self.mask_id, embeddings.num_embeddings)
        with recorder:
            model(**{**seen.batch, "input_ids": masked})
            hidden = recorder.take()[self.last_hidden]
        predictions = self.norm(functional.gelu(self.dense(hidden[selected].float())))
        return masked_lm_cross_entropy(
            functional.linear(predictions, embeddings.weight, self.bias), ids[selected]
        )

    def counts(self, seen: LossInputs) -> Tensor:
        """Count the tokens that may be masked: the masked ones are only drawn in `forward`."""
        return self._maskable(seen).sum()

    def _maskable(self, seen: LossInputs) -> Tensor:
        """Return which tokens are real and not special, bool (n, t)."""
        ordinary = ~torch.isin(seen.batch["input_ids"], self.special)
        return ordinary if seen.mask is None else ordinary & seen.mask


def _word_embeddings(model: nn.Module) -> nn.Embedding | None:
    """Return the word embeddings of the transformer inside a model; None if there are none."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            embeddings = module.get_input_embeddings()
            return embeddings if isinstance(embeddings, nn.Embedding) else None
    return None
