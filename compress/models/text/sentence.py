"""Sentence encoders: a transformer whose token vectors are pooled into one vector per text."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compress.core.artifacts import POOLING
from compress.core.disk.files import make_folder, write_json
from compress.models.text.pooling import MODULES, POOLING_FOLDER, PoolingMode


class SentenceEncoder(nn.Module):
    """A bare encoder with masked mean or `[CLS]` pooling; `normalize` scales the vectors to length 1.

    Mean pooling over the real tokens is that of Sentence-BERT (Reimers and Gurevych 2019, arXiv:1908.10084). The
    pooler that some architectures have for classification is removed, as it is not used.
    """

    def __init__(self, encoder: PreTrainedModel, pooling: PoolingMode, normalize: bool) -> None:
        super().__init__()
        drop_pooler(encoder)
        self.encoder = encoder
        self.pooling = pooling
        self.normalize = normalize

    @property
    def config(self) -> PretrainedConfig:
        """The encoder's config."""
        return cast(PretrainedConfig, self.encoder.config)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Map token ids and masks, int64 (n, t) each, to embeddings (n, width), float32."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        return self.pool(self.encoder(**inputs).last_hidden_state, attention_mask)

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Pool token vectors (n, t, width) by their 0/1 mask (n, t) into embeddings (n, width), float32."""
        hidden = hidden.float()
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            token_weights = mask.unsqueeze(-1).float()
            pooled = (hidden * token_weights).sum(dim=1) / token_weights.sum(dim=1).clamp(min=1.0)
        return nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled


def drop_pooler(encoder: nn.Module) -> None:
    """Remove the classification pooler of an encoder, in place, if it has one."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.register_module("pooler", None)


def write_pooling(model: SentenceEncoder, out: Path) -> None:
    """Write `pooling.json` and the files that sentence-transformers needs to load the folder."""
    write_json(out / POOLING, {"pooling": model.pooling, "normalize": model.normalize})
    kinds = ["Transformer", "Pooling", *(["Normalize"] if model.normalize else [])]
    folders = ["", POOLING_FOLDER, "2_Normalize"]
    modules = [
        {"idx": index, "name": str(index), "path": folder, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, folder) in enumerate(zip(kinds, folders, strict=False))
    ]
    write_json(out / MODULES, modules)
    make_folder(out / POOLING_FOLDER)
    description = {
        "word_embedding_dimension": model.config.hidden_size,
        "pooling_mode_cls_token": model.pooling == "cls",
        "pooling_mode_mean_tokens": model.pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    write_json(out / POOLING_FOLDER / "config.json", description)
