"""The key of a measurement: what it depends on, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from compress.core.disk.files import digest_of
from compress.measuring.protocol import PROTOCOL_VERSION
from compress.profile.schema import MeasureSpec


def measurement_key(
    artifact_digest: str,
    baseline_digest: str,
    fingerprint: str,
    split: str,
    spec: MeasureSpec,
    seed: int,
    by: Mapping[str, object],
) -> str:
    """The sha256 that a finished measurement is found by.

    Args:
        artifact_digest: of the artifact that is measured.
        baseline_digest: of the artifact that it is compared with; the same one for the baseline itself.
        fingerprint: of the resolved target, its batch sizes and lengths included.
        split: fingerprint of the test split.
        spec: how long and on how much to measure.
        seed: of the choice of examples and of the bootstrap.
        by: what a distribution adds to the measuring: empty for a built-in task.
    """
    parts = {
        "artifact": artifact_digest,
        "baseline": baseline_digest,
        "target": fingerprint,
        "split": split,
        "spec": spec.identity(),
        "seed": seed,
        "protocol": PROTOCOL_VERSION,
        **({"by": by} if by else {}),
    }
    return digest_of(parts)
