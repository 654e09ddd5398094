"""Several models combined into one that averages their outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.core.artifacts import ENSEMBLE
from compress.core.disk.safe_paths import path_inside
from compress.core.errors import ModelError
from compress.models.io.outputs import outputs_of
from compress.models.io.weights import read_model_json
from compress.models.text.sentence import SentenceEncoder


class Ensemble(nn.Module):
    """Models with the same inputs and outputs, averaged.

    Classifiers: the logarithm of the mean of their probabilities (n, labels), so that softmax returns that mean;
    deep ensembles (Lakshminarayanan et al. 2017, arXiv:1612.01474). Sentence encoders: the mean of their embeddings
    (n, width), each normalised first; they must share one embedding space, as generations of one teacher do.
    float32.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(members) < 2:
            raise ModelError(f"an ensemble of {len(members)}: it needs at least two models")
        embeds = {isinstance(member, SentenceEncoder) for member in members}
        if len(embeds) > 1:
            raise ModelError("classifiers and sentence encoders cannot be averaged")
        self.members = nn.ModuleList(members)
        self.embeds = embeds.pop()

    def forward(self, **inputs: Tensor) -> Tensor:
        """Map the members' inputs to outputs (n, labels or width), float32."""
        return self.combine([outputs_of(member(**inputs)) for member in self.members])

    def combine(self, outputs: Sequence[Tensor]) -> Tensor:
        """Combine the members' outputs, (n, labels or width) each, into the ensemble's, float32."""
        stacked = torch.stack([output.float() for output in outputs])
        if self.embeds:
            return nn.functional.normalize(stacked, dim=-1).mean(dim=0)
        # In log space, so that a probability that underflows in float32 does not become minus infinity.
        return stacked.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(outputs))


def member_folders(path: Path) -> tuple[Path, ...]:
    """Return the folders of the members that `ensemble.json` names, in order.

    Raises:
        ModelError: the file is damaged, or names a folder that is not directly beside it or is itself an ensemble.
    """
    body = read_model_json(path / ENSEMBLE)
    names = body.get("members") if isinstance(body, dict) else None
    if not isinstance(names, list) or len(names) < 2:
        raise ModelError("expected the names of at least two folders", where=str(path / ENSEMBLE))
    return tuple(_member(path, name) for name in names)


def _member(path: Path, name: str) -> Path:
    where = str(path / ENSEMBLE)
    folder = path_inside(path, name, where=where)
    # A link to the ensemble itself would recurse forever.
    if folder.parent != path or folder.resolve() == path.resolve():
        raise ModelError(f"{name!a} is not a folder beside this file", where=where, code="outside-folder")
    if (folder / ENSEMBLE).exists():
        raise ModelError(f"{name!a} is itself an ensemble", where=where, code="nested-ensemble")
    return folder
