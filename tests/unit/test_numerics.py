"""What decides how this machine trains, the GPU among it, as its driver tells."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest

from compress.core.numerics import local_numerics, visible_gpu
from compress.core.versions import installed_version


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    local_numerics.cache_clear()
    yield
    local_numerics.cache_clear()


def driver(generation: int, *, devices: int = 1) -> SimpleNamespace:
    """As libcuda answers on a machine with such GPUs."""

    def attribute(found: ctypes._CArgObject, number: int, device: object) -> int:
        assert number == 75
        found._obj.value = generation  # type: ignore[attr-defined]
        return 0

    def called(found: Any, size: int, device: object) -> int:
        found.value = b"NVIDIA H200"
        return 0

    return SimpleNamespace(
        cuInit=lambda flags: 0 if devices else 100,
        cuDeviceGet=lambda device, number: 0,
        cuDeviceGetAttribute=attribute,
        cuDeviceGetName=called,
    )


@pytest.mark.parametrize(("generation", "bf16"), [(7, False), (8, True), (9, True), (10, True)])
def test_a_gpu_trains_and_its_generation_says_in_which_numbers(
    monkeypatch: pytest.MonkeyPatch, generation: int, bf16: bool
) -> None:
    monkeypatch.setattr(metadata, "version", {"torch": "2.11.0"}.__getitem__)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver(generation))
    found = local_numerics()
    assert (found.device, found.bf16, found.precision("auto")) == ("cuda", bf16, "bf16" if bf16 else "fp32")
    assert visible_gpu() == ("NVIDIA H200", generation)


def test_a_driver_without_a_gpu_that_may_be_used_trains_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with CUDA_VISIBLE_DEVICES= in the environment."""
    monkeypatch.setattr(metadata, "version", {"torch": "2.11.0"}.__getitem__)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver(9, devices=0))
    assert local_numerics().device == "cpu"


def test_a_torch_for_cpus_trains_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", {"torch": "2.11.0+cpu"}.__getitem__)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver(9))
    assert local_numerics().device == "cpu"


def test_the_gpu_build_of_a_library_is_that_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        try:
            return {"onnxruntime-gpu": "1.31.1", "onnx": "1.23.2"}[name]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(metadata, "version", version)
    assert [installed_version(name) for name in ("onnxruntime", "onnx", "torch")] == [
        "1.31.1",
        "1.23.2",
        None,
    ]
