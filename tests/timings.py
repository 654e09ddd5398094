"""How long tests time things: as shortly as the code takes it. No test relies on how fast a tiny model is."""

from __future__ import annotations

from types import ModuleType

from compress.measuring import protocol, variants
from compress.passes.quantize.int8.gain import probe


def shorten_measuring() -> None:
    """Fewer processes that share a timing, and less time in each, in this process."""
    protocol.LATENCY_PROCESSES.update(onnxruntime=2, torch=1)
    probe.SECONDS_PER_SHAPE = 0.02
    shorten(variants)


def shorten(*modules: ModuleType) -> None:
    """Less time, in one process, for what these modules choose by timing."""
    for module in modules:
        short = {"examples": 8, "min_seconds": 0.1, "min_rounds": 4}
        vars(module).update(TIMING_SETTINGS=module.TIMING_SETTINGS.model_copy(update=short), PROCESSES=1)
