"""What holds for every test."""

from __future__ import annotations

import os

# Models are 32 wide: a second thread costs more than it brings, and each test process of several has one core.
# Set before numpy or torch is imported; children inherit it.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
