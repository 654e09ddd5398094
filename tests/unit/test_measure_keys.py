from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from compress.measuring.keys import measurement_key
from compress.profile.schema import MeasureSpec

PARTS: dict[str, Any] = {
    "artifact_digest": "a",
    "baseline_digest": "b",
    "fingerprint": "f",
    "split": "s",
    "spec": MeasureSpec(),
    "seed": 0,
    "task_parts": {},
}


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("artifact_digest", "x"),
        ("baseline_digest", "x"),
        ("fingerprint", "x"),
        ("split", "x"),
        ("spec", MeasureSpec(examples=7)),
        ("seed", 1),
        ("task_parts", {"distribution": ["d", "1"]}),
    ],
)
def test_every_part_changes_the_key(part: str, other: object) -> None:
    assert measurement_key(**PARTS) != measurement_key(**{**PARTS, part: other})


def test_equal_parts_give_equal_keys() -> None:
    assert measurement_key(**PARTS) == measurement_key(**{**PARTS, "spec": MeasureSpec(min_seconds=2.0)})


def test_a_new_protocol_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = measurement_key(**PARTS)
    monkeypatch.setattr("compress.measuring.keys.PROTOCOL_VERSION", 10_000)
    assert measurement_key(**PARTS) != before


def test_keys_and_measuring_need_no_torch() -> None:
    code = (
        "import sys, compress.measuring.keys, compress.measuring.artifact, compress.measuring.variants;"
        "import compress.targets.local as t; t.probe();"
        "sys.exit(','.join(m for m in ('torch', 'transformers', 'onnxruntime') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
