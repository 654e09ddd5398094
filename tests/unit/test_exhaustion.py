"""A full disk and memory that ran out, as libraries say it, are one kind of error for the user."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from compress.core.disk.exhaustion import is_disk_full, resource_errors
from compress.core.errors import CompressError, DataError, ResourceError, TargetError
from compress.runtimes.launching import Command, run_all

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    # shutil.copytree collects the words of what it met.
    shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]),
    # numpy's `save` says no more than this.
    OSError("2000 requested and 512 written"),
    # safetensors' words.
    RuntimeError('I/O error: Os { code: 28, kind: StorageFull, message: "No space left on device" }'),
    ValueError("No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=[str(error)[:30] for error in FULL])
def test_a_full_disk_is_told_with_its_place_and_what_is_free(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(ResourceError) as caught, resource_errors(lambda: (tmp_path / "not" / "made yet",)):
        raise error
    assert caught.value.exit_code == 7
    assert caught.value.where == str(tmp_path)
    total = f"{shutil.disk_usage(tmp_path).total / 1e6:.1f}"
    assert caught.value.message.startswith("the disk is full: ")
    assert caught.value.message.endswith(f" of {total} MB are free here")
    assert "COMPRESS_CACHE" in (caught.value.hint or "")
    assert caught.value.__cause__ is error


def test_the_place_is_that_of_the_file_where_the_error_names_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ResourceError) as caught, resource_errors(lambda: (Path("/"),)):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "there" / "file"))
    assert caught.value.where == str(tmp_path / "there")


def test_an_error_that_was_made_of_one_counts(tmp_path: Path) -> None:
    error = DataError("cannot be fetched")
    error.__cause__ = FULL[0]
    assert is_disk_full(error)


def test_what_is_said_of_another_machine_does_not_count() -> None:
    said = TargetError("board failed while sending model.onnx: [Errno 28] No space left on device")
    assert not is_disk_full(said)
    with pytest.raises(TargetError), resource_errors(lambda: ()):
        raise said


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_memory_that_ran_out(error: Exception) -> None:
    with pytest.raises(ResourceError, match="memory ran out: ") as caught, resource_errors(lambda: ()):
        raise error
    assert caught.value.exit_code == 7
    assert "`batch_size`" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), FileNotFoundError(2, "none", "x"), CompressError("wrong")]
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, resource_errors(lambda: ()):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "error", [OSError(errno.EFBIG, os.strerror(errno.EFBIG)), RuntimeError("File too large (os error 27)")]
)
def test_a_file_that_may_not_become_so_large(error: Exception) -> None:
    with pytest.raises(ResourceError, match="size limit") as caught, resource_errors(lambda: ()):
        raise error
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.EROFS])
def test_a_system_that_refuses_is_no_internal_error(tmp_path: Path, number: int) -> None:
    with pytest.raises(ResourceError) as caught, resource_errors(lambda: (tmp_path,)):
        raise OSError(number, os.strerror(number), str(tmp_path / "file"))
    assert (caught.value.code, caught.value.where) == ("io-refused", str(tmp_path / "file"))


def test_a_library_that_was_refused_says_it_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(ResourceError), resource_errors(lambda: (tmp_path,)):
        raise RuntimeError("I/O error: Too many open files (os error 24)")


def test_an_error_that_names_what_cannot_be_read_stays(tmp_path: Path) -> None:
    told = DataError("cannot be read: Permission denied")
    told.__cause__ = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(DataError), resource_errors(lambda: (tmp_path,)):
        raise told


GPU_FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "ncclUnhandledCudaError: Call to CUDA function failed. Last error: Cuda failure 2 'out of memory'",
    "CUBLAS error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc",
    "/onnxruntime/core/framework/bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 268435456",
)


@pytest.mark.parametrize("said", GPU_FULL)
def test_the_memory_of_a_gpu_is_memory_too(said: str) -> None:
    with pytest.raises(ResourceError, match="memory ran out") as caught, resource_errors(lambda: ()):
        raise RuntimeError(said)
    assert caught.value.exit_code == 7
    program = f"import sys; sys.exit({said!r} + chr(10) + 'and more')"
    with pytest.raises(ResourceError, match="timing m: the GPU's memory ran out") as caught:
        run_all([Command((sys.executable, "-c", program), dict(os.environ), "timing m")], "cuda-torch-1t")
    assert caught.value.where == "cuda-torch-1t"
    assert "batch_size" in (caught.value.hint or "")
