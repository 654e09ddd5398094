"""Cache keys of measurements."""

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
    task_parts: Mapping[str, object],
) -> str:
    """Return the cache key of a measurement, a sha256 over everything that it depends on.

    Args:
        artifact_digest: digest of the measured artifact.
        baseline_digest: digest of the artifact that it is compared with; the same one for the baseline itself.
        fingerprint: fingerprint of the resolved target, including batch sizes and lengths.
        split: fingerprint of the test split.
        spec: settings of the measurement.
        seed: seed for sampling examples and for the bootstrap.
        task_parts: task-specific parts of the key, from `planning.keys.measured_by`; usually empty for a built-in task.
    """
    parts = {
        "artifact": artifact_digest,
        "baseline": baseline_digest,
        "target": fingerprint,
        "split": split,
        "spec": spec.identity(),
        "seed": seed,
        "protocol": PROTOCOL_VERSION,
        **({"by": task_parts} if task_parts else {}),
    }
    return digest_of(parts)
