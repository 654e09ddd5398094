"""What convolutions cannot be is refused before anything is loaded, where a config tells that the model has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.core.errors import ProfileError
from compress.profile.load import load_profile
from tests.profiles import write_profile

TO_VIT = {
    "distill": {
        "student": {"architecture": "vit", "layers": 2, "hidden_size": 32, "heads": 2, "patch_size": 4}
    }
}
LATENCY = "latencies are predicted for attention layers only, and a resnet has none; use `ratio` or `size_mb`"
SLOWER = (
    "the model is a resnet, whose convolutions are slower with dynamic ranges than in floating point; use "
    "`static` or `auto`, or keep them in floating point with `exclude_kinds: [convolution]`"
)


def write(folder: Path, kind: str, *passes: dict[str, Any]) -> Path:
    for name in ("a", "b"):
        (folder / "data" / name).mkdir(parents=True)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps({"model_type": kind}))
    (folder / "model" / "preprocessor_config.json").write_text("{}")
    return write_profile(
        folder / "p.yaml",
        task="image-classification",
        data={"path": "data"},
        teacher={"model": "model"},
        passes=list(passes),
    )


REFUSED = [
    ({"prune": {"target": {"latency_ms": 3}}}, f"prune.target.latency_ms: {LATENCY}"),
    ({"prune": {"target": {"speedup": 2}}}, f"prune.target.speedup: {LATENCY}"),
    (
        {"prune": {"remove": {"heads": 0.5}}},
        "prune.remove.heads: the model is a resnet: from convolutions remove `channels`",
    ),
    (
        {"quantize": {"bits": 4}},
        "quantize.bits: the model is a resnet, and 4-bit blocks are not supported for convolutions; use 8, or "
        "keep them in floating point with `exclude_kinds: [convolution]`",
    ),
    ({"quantize": {"scheme": "dynamic"}}, f"quantize.scheme: {SLOWER}"),
    (
        {"quantize": {"mixed": {"latency_ms": 3}}},
        "quantize.mixed.latency_ms: the model is a resnet, and latencies of integer convolutions cannot be "
        "predicted; use `max_drop` or `size_mb`",
    ),
]


@pytest.mark.parametrize(("step", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_convolutions(tmp_path: Path, step: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(write(tmp_path, "resnet", step))
    (fault,) = str(caught.value).splitlines()
    assert fault.endswith(f"passes.0.{message}")


@pytest.mark.parametrize("step", [step for step, _ in REFUSED], ids=str)
def test_of_other_kinds_nothing_is_said(tmp_path: Path, step: dict[str, Any]) -> None:
    load_profile(write(tmp_path, "vit", step))


@pytest.mark.parametrize(
    "step",
    [
        {"prune": {"target": {"ratio": 0.5}}},
        {"prune": {"remove": {"channels": 0.5}}},
        {"quantize": {"bits": 8}},
        {"quantize": {"bits": 4, "exclude_kinds": ["convolution"]}},
        {"quantize": {"scheme": "dynamic", "exclude": ["/conv*"]}},
    ],
    ids=str,
)
def test_what_convolutions_can_be(tmp_path: Path, step: dict[str, Any]) -> None:
    load_profile(write(tmp_path, "resnet", step))


def test_a_student_of_another_kind_decides(tmp_path: Path) -> None:
    load_profile(write(tmp_path, "resnet", TO_VIT, {"prune": {"target": {"speedup": 2}}}))
