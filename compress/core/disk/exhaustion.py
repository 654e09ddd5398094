"""Detection of exhausted disk or memory across libraries, converted to `ResourceError`."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.core.errors import CompressError, ResourceError, first_line
from compress.core.units import megabytes

_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
_TOO_LARGE_PATTERN = re.compile(r"File too large|\(os error 27\)")
_DISK_FULL_PATTERN = re.compile(
    # Messages of the C library, of Rust's standard library, and of numpy, which gives no reason.
    r"No space left on device|Disk quota exceeded|\(os error (28|122)\)|\d+ requested and \d+ written"
)
_IO_REFUSED_ERRNOS = (
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.ESTALE,
    errno.EBUSY,
)
_IO_REFUSED_PATTERN = re.compile(
    r"Input/output error|Permission denied|Too many open files|Read-only file system|\(os error (5|13|23|24|30)\)"
)
_GPU_MEMORY_PATTERN = re.compile(
    # Messages of torch, of CUDA with its driver and libraries, of NCCL, and of onnxruntime's arena allocator.
    r"CUDA out of memory|CUDA (driver )?(error|failure)[ 0-9]*: out of memory|CU[A-Z]+_STATUS_ALLOC_FAILED"
    r"|Cuda failure[ 0-9]* 'out of memory'"
    r"|Failed to allocate memory for requested buffer"
)
_MEMORY_PATTERN = re.compile(
    r"std::bad_alloc|[Cc]an't allocate memory|Cannot allocate memory|not enough memory|"
    + _GPU_MEMORY_PATTERN.pattern
)
_MEMORY_HINT = "Close other programs, lower `batch_size`, or use a machine with more memory. "
RESUME_HINT = "The same command then resumes from what is finished."
DEVICE_FULL_HINT = (
    "Free some space there, or set `folder` to one on another disk of the device. " + RESUME_HINT
)


@contextmanager
def resource_errors(folders: Callable[[], Iterable[Path]]) -> Iterator[None]:
    """Convert errors of a full disk, exhausted memory or refused I/O into `ResourceError`.

    Args:
        folders: returns the folders that are written to; called only if an error does not name its file.

    Raises:
        ResourceError: the disk is full, memory ran out, or the system refused to read or write.
    """
    try:
        yield
    except ResourceError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise _disk_full_error(error, folders()) from error
        if is_file_too_large(error):
            raise ResourceError(
                f"a file would exceed the size limit here: {first_line(error)}",
                hint="Raise `ulimit -f`, or use a file system that allows larger files. " + RESUME_HINT,
            ) from error
        if _is_out_of_memory(error):
            raise ResourceError(
                f"memory ran out: {first_line(error)}",
                hint=_MEMORY_HINT + RESUME_HINT,
            ) from error
        if is_io_refused(error) and not (isinstance(error, CompressError) and error.exit_code != 1):
            path = next((cause.filename for cause in _error_chain(error) if isinstance(cause, OSError)), None)
            raise ResourceError(
                f"the operating system refused to read or write: {first_line(error)}",
                where=path if isinstance(path, str) else None,
                hint="Check the disk, the permissions and `ulimit -n`. " + RESUME_HINT,
                code="io-refused",
            ) from error
        raise


def is_exhaustion(error: BaseException) -> bool:
    """Whether an error means exhausted disk or memory or refused I/O, converted to `ResourceError` or not."""
    return isinstance(error, ResourceError) or any(
        predicate(error) for predicate in (is_disk_full, is_file_too_large, _is_out_of_memory, is_io_refused)
    )


def is_disk_full(error: BaseException) -> bool:
    """Whether an error or one of its causes means that a disk is full."""
    return any(
        (isinstance(cause, OSError) and cause.errno in _DISK_FULL_ERRNOS) or reports_disk_full(str(cause))
        for cause in _error_chain(error)
    )


def is_file_too_large(error: BaseException) -> bool:
    """Whether an error or one of its causes means that a file would exceed a size limit."""
    return any(
        (isinstance(cause, OSError) and cause.errno == errno.EFBIG) or _TOO_LARGE_PATTERN.search(str(cause))
        for cause in _error_chain(error)
    )


def is_io_refused(error: BaseException) -> bool:
    """Whether an error or one of its causes means that the system failed or refused to read or write."""
    return any(
        (isinstance(cause, OSError) and cause.errno in _IO_REFUSED_ERRNOS)
        or _IO_REFUSED_PATTERN.search(str(cause))
        for cause in _error_chain(error)
    )


def reports_disk_full(text: str) -> bool:
    """Whether the output of a process reports a full disk."""
    return _DISK_FULL_PATTERN.search(text) is not None


def reports_gpu_memory_full(text: str) -> bool:
    """Whether the output of a process reports that GPU memory ran out."""
    return _GPU_MEMORY_PATTERN.search(text) is not None


def gpu_memory_error(action: str, where: str) -> ResourceError:
    """Return the error for a process that ran out of GPU memory."""
    return ResourceError(f"{action}: the GPU's memory ran out", where=where, hint=_MEMORY_HINT + RESUME_HINT)


def disk_full_error(folder: Path) -> ResourceError:
    """Return the error for a full disk, given a folder on it."""
    usage = shutil.disk_usage(folder)
    return ResourceError(
        f"the disk is full: {megabytes(usage.free):.1f} MB of {megabytes(usage.total):.1f} MB are free here",
        where=str(folder),
        hint="Free some space there, or set another place: COMPRESS_CACHE for the cache, TMPDIR for temporary files. "
        + RESUME_HINT,
    )


def _disk_full_error(error: BaseException, candidates: Iterable[Path]) -> ResourceError:
    """Return the error for the disk of the file that the error names, else for the one with the least free space."""
    named_paths = [
        Path(cause.filename)
        for cause in _error_chain(error)
        if isinstance(cause, OSError) and isinstance(cause.filename, str)
    ]
    folders = [_nearest_existing(path) for path in (named_paths[:1] or candidates)]
    return disk_full_error(min(folders, key=lambda folder: shutil.disk_usage(folder).free))


def _is_out_of_memory(error: BaseException) -> bool:
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or (isinstance(cause, RuntimeError) and _MEMORY_PATTERN.search(str(cause)) is not None)
        for cause in _error_chain(error)
    )


def _error_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, except `CompressError`s, whose text may describe another machine's disk."""
    current: BaseException | None = error
    while current is not None:
        if not isinstance(current, CompressError):
            yield current
        current = current.__cause__


def _nearest_existing(path: Path) -> Path:
    """Return the folder itself or its nearest existing parent."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
