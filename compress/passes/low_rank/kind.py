"""Registration of the low-rank factorization pass."""

from __future__ import annotations

from compress.passes.contract import TORCH, PassKind, StepKind
from compress.passes.low_rank.spec import LowRankSpec

LOW_RANK = PassKind(
    spec=LowRankSpec,
    steps={
        "low_rank": StepKind("compress.passes.low_rank.step:run", TORCH, trains=True, open_form_fields=())
    },
    inputs=("model", "teacher"),
)
