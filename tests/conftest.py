"""What holds for every test."""

from __future__ import annotations

import os

# Models are 32 wide: a second thread costs more than it brings, and each test process of several has one core.
# Training takes a thread a core whatever this says; threads that wait for each other sleep, for when they spin
# on cores that others use, a step of a tiny model takes ten to fifty times its work.
# Set before numpy or torch is imported; children inherit it.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
