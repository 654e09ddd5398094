"""What holds for every test."""

from __future__ import annotations

import functools
import os

import pytest

# Models are 32 wide: a second thread costs more than it brings, and each test process of several has one core.
# Training takes a thread a core whatever this says; threads that wait for each other sleep, for when they spin
# on cores that others use, a step of a tiny model takes ten to fifty times its work.
# Set before numpy or torch is imported; children inherit it.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from tests.draws import restart  # noqa: E402 (numpy is imported there)
from tests.timings import shorten_measuring  # noqa: E402 (there too)

shorten_measuring()


@pytest.fixture(autouse=True)
def _own_draws() -> None:
    restart()


@pytest.fixture(autouse=True, scope="session")
def _operators_are_listed_once() -> None:
    """torch lists its ONNX operators anew for each export, half a second for a tiny model.

    Only where many tests share a process: the list takes seconds to import.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
