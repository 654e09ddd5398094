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

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TOO_LARGE = re.compile(r"File too large|\(os error 27\)")
_FULL_WORDS = re.compile(
    # Messages of the C library, of Rust's standard library, and of numpy, which gives no reason.
    r"No space left on device|Disk quota exceeded|\(os error (28|122)\)|\d+ requested and \d+ written"
)
_REFUSED = (
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.ESTALE,
    errno.EBUSY,
)
_REFUSED_WORDS = re.compile(
    r"Input/output error|Permission denied|Too many open files|Read-only file system|\(os error (5|13|23|24|30)\)"
)
_GPU_MEMORY_WORDS = re.compile(
    # Messages of torch, of CUDA with its driver and libraries, of NCCL, and of onnxruntime's arena allocator.
    r"CUDA out of memory|CUDA (driver )?(error|failure)[ 0-9]*: out of memory|CU[A-Z]+_STATUS_ALLOC_FAILED"
    r"|Cuda failure[ 0-9]* 'out of memory'"
    r"|Failed to allocate memory for requested buffer"
)
_MEMORY_WORDS = re.compile(
    r"std::bad_alloc|[Cc]an't allocate memory|Cannot allocate memory|not enough memory|"
    + _GPU_MEMORY_WORDS.pattern
)
_MEMORY_HINT = "Close other programs, lower `batch_size`, or use a machine with more memory. "
GOES_ON = "The same command then resumes from what is finished."
DEVICE_FULL = "Free some space there, or set `folder` to one on another disk of the device. " + GOES_ON


@contextmanager
def resource_errors(places: Callable[[], Iterable[Path]]) -> Iterator[None]:
    """Convert errors of a full disk, exhausted memory or refused I/O into `ResourceError`.

    Args:
        places: returns the folders that are written to; called only if an error does not name its file.

    Raises:
        ResourceError: the disk is full, memory ran out, or the system refused to read or write.
    """
    try:
        yield
    except ResourceError:
        raise
    except Exception as error:
        if is_full(error):
            raise _full_disk(error, places()) from error
        if is_too_large(error):
            raise ResourceError(
                f"a file would exceed the size limit here: {first_line(error)}",
                hint="Raise `ulimit -f`, or use a file system that allows larger files. " + GOES_ON,
            ) from error
        if _is_memory(error):
            raise ResourceError(
                f"memory ran out: {first_line(error)}",
                hint=_MEMORY_HINT + GOES_ON,
            ) from error
        if is_refused(error) and not (isinstance(error, CompressError) and error.exit_code != 1):
            place = next((one.filename for one in _with_causes(error) if isinstance(one, OSError)), None)
            raise ResourceError(
                f"the operating system refused to read or write: {first_line(error)}",
                where=place if isinstance(place, str) else None,
                hint="Check the disk, the permissions and `ulimit -n`. " + GOES_ON,
                code="io-refused",
            ) from error
        raise


def ran_out(error: BaseException) -> bool:
    """Whether an error means exhausted disk or memory or refused I/O, converted to `ResourceError` or not."""
    return isinstance(error, ResourceError) or any(
        judged(error) for judged in (is_full, is_too_large, _is_memory, is_refused)
    )


def is_full(error: BaseException) -> bool:
    """Whether an error or one of its causes means that a disk is full."""
    return any(
        (isinstance(one, OSError) and one.errno in _FULL) or says_full(str(one))
        for one in _with_causes(error)
    )


def is_too_large(error: BaseException) -> bool:
    """Whether an error or one of its causes means that a file would exceed a size limit."""
    return any(
        (isinstance(one, OSError) and one.errno == errno.EFBIG) or _TOO_LARGE.search(str(one))
        for one in _with_causes(error)
    )


def is_refused(error: BaseException) -> bool:
    """Whether an error or one of its causes means that the system failed or refused to read or write."""
    return any(
        (isinstance(one, OSError) and one.errno in _REFUSED) or _REFUSED_WORDS.search(str(one))
        for one in _with_causes(error)
    )


def says_full(text: str) -> bool:
    """Whether the output of a process reports a full disk."""
    return _FULL_WORDS.search(text) is not None


def says_gpu_full(text: str) -> bool:
    """Whether the output of a process reports that GPU memory ran out."""
    return _GPU_MEMORY_WORDS.search(text) is not None


def full_gpu(doing: str, where: str) -> ResourceError:
    """Return the error for a process that ran out of GPU memory."""
    return ResourceError(f"{doing}: the GPU's memory ran out", where=where, hint=_MEMORY_HINT + GOES_ON)


def full_disk(place: Path) -> ResourceError:
    """Return the error for a full disk, given a folder on it."""
    usage = shutil.disk_usage(place)
    return ResourceError(
        f"the disk is full: {megabytes(usage.free):.1f} MB of {megabytes(usage.total):.1f} MB are free here",
        where=str(place),
        hint="Free some space there, or set another place: COMPRESS_CACHE for the cache, TMPDIR for temporary files. "
        + GOES_ON,
    )


def _full_disk(error: BaseException, places: Iterable[Path]) -> ResourceError:
    """Return the error for the disk of the file that the error names, else for the one with the least free space."""
    named = [
        Path(one.filename)
        for one in _with_causes(error)
        if isinstance(one, OSError) and isinstance(one.filename, str)
    ]
    folders = [_existing(place) for place in (named[:1] or places)]
    return full_disk(min(folders, key=lambda folder: shutil.disk_usage(folder).free))


def _is_memory(error: BaseException) -> bool:
    return any(
        isinstance(one, MemoryError)
        or (isinstance(one, OSError) and one.errno == errno.ENOMEM)
        or (isinstance(one, RuntimeError) and _MEMORY_WORDS.search(str(one)) is not None)
        for one in _with_causes(error)
    )


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, except `CompressError`s, whose text may describe another machine's disk."""
    found: BaseException | None = error
    while found is not None:
        if not isinstance(found, CompressError):
            yield found
        found = found.__cause__


def _existing(place: Path) -> Path:
    """Return the folder itself or its nearest existing parent."""
    return next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())
