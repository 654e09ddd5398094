from __future__ import annotations

import json
import os
from typing import Any

import pytest

from compress.core.errors import TargetError
from compress.core.numerics import first_processor
from compress.profile.schema import TargetSpec
from compress.targets import local
from compress.targets.showing import show_machine, show_targets

X86 = """processor	: 0
vendor_id	: GenuineIntel
cpu family	: 6
model		: 143
model name	: Intel(R) Xeon(R) Platinum 8481C
stepping	: 8
flags		: fpu avx2 avx512f avx512_vnni amx_int8 sse2

processor	: 1
model name	: another
"""
ARM = """processor	: 0
Features	: fp asimd asimddp i8mm
CPU implementer	: 0x41
CPU part	: 0xd40
"""


def test_x86_processors() -> None:
    assert local.describe_processor(first_processor(X86)) == {
        "model": "Intel(R) Xeon(R) Platinum 8481C (6/143/8)",
        "flags": ["avx2", "avx512f", "avx512_vnni", "amx_int8"],
    }


def test_arm_processors() -> None:
    assert local.describe_processor(first_processor(ARM)) == {
        "model": "0x41 0xd40",
        "flags": ["asimddp", "i8mm"],
    }


def test_gpus_are_read_from_nvidia_smi() -> None:
    answer = "NVIDIA A10G, 550.54.15\nTesla T4, 550.54.15\n"
    assert local.parse_gpus(answer) == [
        {"name": "NVIDIA A10G", "driver": "550.54.15"},
        {"name": "Tesla T4", "driver": "550.54.15"},
    ]


@pytest.mark.parametrize("spec", [TargetSpec(), TargetSpec(runtime="torch")])
def test_this_machine_resolves(spec: TargetSpec) -> None:
    target = local.resolve(spec)
    assert target.label == spec.label
    assert target.description["cpu"]["cores"] >= 1
    assert target.description["runtime"].keys() >= {spec.runtime}
    assert target.description["warnings"] == []
    assert target.fingerprint == local.resolve(spec).fingerprint


@pytest.mark.parametrize(
    "changes",
    [{"threads": 2}, {"batch_sizes": (1, 8)}, {"sequence_lengths": (32,)}, {"runtime": "torch"}],
)
def test_what_changes_numbers_changes_the_fingerprint(changes: dict[str, Any]) -> None:
    assert local.resolve(TargetSpec(**changes)).fingerprint != local.resolve(TargetSpec()).fingerprint


def test_another_version_of_the_runtime_changes_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = local.resolve(TargetSpec()).fingerprint
    monkeypatch.setattr(local, "_installed", lambda name: "999" if name == "onnxruntime" else None)
    assert local.resolve(TargetSpec()).fingerprint != before


def test_the_name_is_only_a_name() -> None:
    named = local.resolve(TargetSpec(name="laptop"))
    assert named.label == "laptop"
    assert named.fingerprint == local.resolve(TargetSpec()).fingerprint


def test_more_threads_than_cores_is_a_warning() -> None:
    (warning,) = local.resolve(TargetSpec(threads=4_096)).description["warnings"]
    assert warning.startswith("4096 threads on ")


def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_installed", lambda name: None)
    with pytest.raises(TargetError, match="onnxruntime is not installed") as caught:
        local.resolve(TargetSpec(name="edge"))
    assert caught.value.where == "edge"
    assert "pip install onnxruntime" in (caught.value.hint or "")


def test_the_gpu_build_of_onnxruntime_is_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_installed", lambda name: "1.31.1" if name == "onnxruntime-gpu" else None)
    assert local.resolve(TargetSpec()).description["runtime"] == {"onnxruntime-gpu": "1.31.1"}


@pytest.mark.parametrize(
    ("runtime", "installed", "gpus", "missing"),
    [
        ("onnxruntime", {"onnxruntime": "1.31.1"}, [], "no NVIDIA GPU.*replace it with onnxruntime-gpu"),
        (
            "onnxruntime",
            {"onnxruntime": "1.31.1"},
            [{"name": "T4", "driver": "1"}],
            "replace it with onnxruntime-gpu",
        ),
        ("onnxruntime", {"onnxruntime-gpu": "1.31.1"}, [], "no NVIDIA GPU"),
        ("torch", {"torch": "2.13.0+cpu"}, [{"name": "T4", "driver": "1"}], "is a CPU build"),
        ("torch", {"torch": "2.13.0+cpu"}, [], "no NVIDIA GPU.*is a CPU build"),
    ],
)
def test_cuda_that_is_missing_is_told_with_what_to_install(
    runtime: Any,
    installed: dict[str, str],
    gpus: list[dict[str, str]],
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "_installed", installed.get)
    monkeypatch.setattr(local, "gpus", lambda: gpus)
    with pytest.raises(TargetError, match=missing) as caught:
        local.resolve(TargetSpec(device="cuda", runtime=runtime))
    assert caught.value.exit_code == 5
    assert local.probe()["cuda"][runtime] != "ready"


def test_a_gpu_that_is_there_is_part_of_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_installed", {"onnxruntime-gpu": "1.31.1"}.get)
    prints = []
    for name in ("T4", "A10G"):
        monkeypatch.setattr(local, "gpus", lambda name=name: [{"name": name, "driver": "550"}])
        target = local.resolve(TargetSpec(device="cuda"))
        assert target.description["gpu"]["name"] == name
        prints.append(target.fingerprint)
    assert prints[0] != prints[1]


def test_cores_and_a_memory_limit_are_part_of_what_a_target_is() -> None:
    core = sorted(os.sched_getaffinity(0))[-1]
    plain = local.resolve(TargetSpec())
    pinned = local.resolve(TargetSpec(cores=(core,)))
    limited = local.resolve(TargetSpec(memory_limit_mb=512))
    assert len({plain.fingerprint, pinned.fingerprint, limited.fingerprint}) == 3
    assert pinned.description["pinned_to"] == [core]
    assert limited.description["memory_limit_mb"] == 512


def test_threads_wait_for_each_other_on_the_cores_they_are_kept_to() -> None:
    core = sorted(os.sched_getaffinity(0))[0]
    (warning,) = local.resolve(TargetSpec(threads=2, cores=(core,))).description["warnings"]
    assert warning == "2 threads on 1 core: they wait for each other"


def test_a_core_that_is_not_there() -> None:
    usable = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
    with pytest.raises(TargetError) as caught:
        local.resolve(TargetSpec(name="edge", cores=(9000, 9001)))
    assert str(caught.value) == f"edge: cores 9000, 9001 cannot be used there; these can: {usable}"


def test_another_machine_is_never_taken_for_this_one() -> None:
    with pytest.raises(ValueError, match="is not this machine"):
        local.resolve(TargetSpec(device="ssh://board"))


def test_this_machine_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show_machine(as_json=False)
    shown = capsys.readouterr().out
    assert shown.startswith("cpu: model ")
    assert "\ngpus: " in shown
    show_targets((TargetSpec(name="[bold]mine", memory_limit_mb=512),), as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "[bold]mine" in shown


def test_what_is_wrong_with_a_target_is_shown_and_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    specs = (TargetSpec(), TargetSpec(name="edge", cores=(9000,)))
    with pytest.raises(TargetError, match="1 of 2 targets cannot be used: edge"):
        show_targets(specs, as_json=True)
    good, bad = json.loads(capsys.readouterr().out)
    assert (good["fault"], good["found"]["device"]) == (None, "cpu")
    assert bad["found"] is None
    assert bad["fault"].startswith("core 9000 cannot be used")


def test_a_machine_is_the_same_at_other_batch_sizes_and_limits() -> None:
    first = local.resolve(TargetSpec())
    setting = local.resolve(TargetSpec(batch_sizes=(1, 8), sequence_lengths=(64,), memory_limit_mb=512))
    assert first.fingerprint != setting.fingerprint
    assert first.machine_digest == setting.machine_digest
    core = local.usable_cores()[0]
    others = [local.resolve(TargetSpec(threads=2)), local.resolve(TargetSpec(cores=(core,)))]
    assert len({first.machine_digest, *(one.machine_digest for one in others)}) == 3


def test_the_gpu_is_the_one_that_programs_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-smi lists every card, in the order of their slots, whatever CUDA_VISIBLE_DEVICES says."""
    monkeypatch.setattr(local, "_installed", {"onnxruntime-gpu": "1.31.1"}.get)
    monkeypatch.setattr(local, "gpus", lambda: [{"name": one, "driver": "550"} for one in ("T4", "A10G")])
    monkeypatch.setattr(local, "visible_gpu", lambda: ("A10G", 8))
    assert local.resolve(TargetSpec(device="cuda")).description["gpu"] == {"name": "A10G", "driver": "550"}
