"""Several models as one: what they put out on average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.core.artifacts import ENSEMBLE
from compress.core.disk.safe_paths import inside
from compress.core.errors import ModelError
from compress.models.io.outputs import outputs_of
from compress.models.io.weights import read_model_json
from compress.models.text.sentence import SentenceEncoder


class Ensemble(nn.Module):
    """Models of the same inputs and outputs, averaged.

    Classifiers: the logarithm of the mean of their probabilities (n, labels), so that softmax gives that mean; deep
    ensembles (Lakshminarayanan et al. 2017, arXiv:1612.01474). Sentence encoders: the mean of their embeddings
    (n, width), each of length 1 before; they must be of one space, as generations of one teacher are. float32.
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
        """The inputs of the members -> outputs (n, labels or width), float32."""
        return self.combine([outputs_of(member(**inputs)) for member in self.members])

    def combine(self, each: Sequence[Tensor]) -> Tensor:
        """The members' outputs, (n, labels or width) each -> those of the ensemble, float32."""
        together = torch.stack([one.float() for one in each])
        if self.embeds:
            return nn.functional.normalize(together, dim=-1).mean(dim=0)
        # In logarithms, so that a probability too small for float32 does not become minus infinity.
        return together.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(each))


def member_folders(path: Path) -> tuple[Path, ...]:
    """The folders of the members that `ensemble.json` names, in order.

    Raises:
        ModelError: the file is damaged, or names a folder that is not right beside it or holds an average itself.
    """
    body = read_model_json(path / ENSEMBLE)
    names = body.get("members") if isinstance(body, dict) else None
    if not isinstance(names, list) or len(names) < 2:
        raise ModelError("expected the names of at least two folders", where=str(path / ENSEMBLE))
    return tuple(_member(path, name) for name in names)


def _member(path: Path, name: str) -> Path:
    where = str(path / ENSEMBLE)
    folder = inside(path, name, where=where)
    # A link to the ensemble itself would have no end.
    if folder.parent != path or folder.resolve() == path.resolve():
        raise ModelError(f"{name!a} is not a folder beside this file", where=where, code="outside-folder")
    if (folder / ENSEMBLE).exists():
        raise ModelError(f"{name!a} is itself an ensemble", where=where, code="nested-ensemble")
    return folder
