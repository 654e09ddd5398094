"""The budget of a latency: parts of a table, scaled to what the model itself takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.models.anatomy.encoder import encoder_of
from compress.passes.prune.choosing.latency_table import LatencyTable
from compress.passes.prune.choosing.targets import Timing, latency_budget
from compress.passes.prune.spec import PruneTargetSpec
from tests.tiny import tiny_bert

# Two layers of 4 heads and 64 units: 1.0 + 2.0 ms in the first, 0.5 + 0.25 in the last, 0.25 around them.
TABLE = LatencyTable(
    heads=((1, 0.25), (4, 1.0)),
    units=((8, 0.25), (64, 2.0)),
    last_heads=((1, 0.2), (4, 0.5)),
    last_units=((8, 0.1), (64, 0.25)),
    rest_ms=0.25,
)
WHOLE = [(4, 64), (4, 64)]


@pytest.mark.parametrize("before_ms", [2.0, 4.0, 8.0])
def test_whole_layers_cost_what_the_model_takes(before_ms: float):
    timing = Timing(Path(), before_ms, TABLE)
    budget = latency_budget(timing, encoder_of(tiny_bert(layers=2)), PruneTargetSpec(speedup=2))
    assert budget.limit == before_ms / 2
    assert budget.predicted(WHOLE) == pytest.approx(before_ms)
    # All of it is scaled alike, what stands around the layers too.
    scale = before_ms / 4.0
    assert budget.fixed == pytest.approx(0.25 * scale)
    assert budget.predicted([(1, 8), (2, 36)]) == pytest.approx(scale * (0.25 + 0.25 + 0.25 + 0.3 + 0.175))


def test_a_latency_is_the_limit_itself():
    timing = Timing(Path(), 4.0, TABLE)
    budget = latency_budget(timing, encoder_of(tiny_bert(layers=2)), PruneTargetSpec(latency_ms=1.5))
    assert (budget.limit, budget.what, budget.where) == (
        1.5,
        "a latency of 1.5 ms",
        "prune.target.latency_ms",
    )
