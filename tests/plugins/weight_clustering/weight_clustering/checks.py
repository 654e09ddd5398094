"""What is wrong with a clustering, as far as a profile tells."""

from __future__ import annotations

from collections.abc import Iterator

from compress.profile.combination_checks import KeyFault
from compress.profile.pass_checks import PassCheck
from weight_clustering.spec import ClusterSpec


def faults(check: PassCheck) -> Iterator[KeyFault]:
    """A clustering whose values the next one would undo."""
    assert isinstance(check.spec, ClusterSpec)
    further = check.profile.specs[check.index + 1 :]
    if any(spec.kind in ("cluster", "prune", "low_rank", "distill") for spec in further):
        yield (), "a later pass changes the weights again, so nothing would be left of the shared values"
