"""Decode bytes in the encoding that the profile declares, or one detected from the bytes. Deterministic.

UTF-8 and UTF-16 are verified by decoding the whole file; other encodings are detected by charset-normalizer from the
lines that are not plain ASCII. Decoding is always strict: invalid bytes are refused with their line number.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from compress.core.errors import DataError
from compress.data.faults import map_all
from compress.data.names import printable

UTF_8 = "utf-8"
_PROFILE_KEY = "data.encoding"
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CANDIDATES = (
    "cp1252",
    "gb18030",
    "cp932",
    "euc_jp",
    "cp949",
    "big5",
    "cp1250",
    "cp1251",
    "koi8_r",
    "cp1253",
    "cp1254",
)
"""Encodings that can be detected; if two fit equally well, the earlier one is chosen."""

_SINGLE_BYTE_ALPHABETS = frozenset(("cp1250", "cp1251", "koi8_r", "cp1253", "cp1254"))
"""Encodings in which nearly every byte is a letter: accepted only if the letters are coherent as some language."""

_CORE_CHARSETS = {"gb18030": "gb2312", "cp932": "shift_jis", "cp949": "euc_kr"}
"""The subset of an encoding that all but rare texts use."""

_KANA = re.compile("[\u3041-\u30fa]")
_MIN_COHERENCE = 0.15
_SAMPLE_BYTES = 32 * 1024
_CHAOS_TOLERANCE, _COHERENCE_TOLERANCE = 0.035, 0.06
_MAX_CHAOS = 0.2
_NOT_ASCII = re.compile(rb"[^\n\r]*[\x80-\xff][^\n\r]*")
_UTF_8_CHAR = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


def decode(raw: bytes, path: Path, declared: str | None = None) -> tuple[str, str]:
    """Return a file's text, without byte order mark, and the encoding it was decoded from.

    Args:
        declared: the profile's `data.encoding`.

    Raises:
        DataError: a byte is invalid in the encoding, or the encoding cannot be detected.
    """
    return decode_all([raw], [path], declared)[0]


def decode_all(
    raws: Sequence[bytes], paths: Sequence[Path], declared: str | None = None
) -> list[tuple[str, str]]:
    """Decode files that belong together: those that are not Unicode are assumed to share one encoding.

    Raises:
        DataError: see `decode`.
    """
    names = [declared or _unicode_encoding(raw, path) for raw, path in zip(raws, paths, strict=True)]
    non_unicode = [raw for raw, name in zip(raws, names, strict=True) if name is None]
    shared_encoding = (
        _detected(non_unicode, next(p for p, name in zip(paths, names, strict=True) if name is None))
        if non_unicode
        else ""
    )
    encodings = [name or shared_encoding for name in names]
    decode_one = partial(_decode_strictly, declared=bool(declared))
    texts = map_all(decode_one, raws, paths, encodings)
    return list(zip(texts, map(_canonical_name, encodings), strict=True))


def _unicode_encoding(raw: bytes, path: Path) -> str | None:
    """Return the Unicode encoding of these bytes; None if they are in another encoding."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if raw.startswith(mark):
            return encoding
    if b"\0" in raw:
        return _utf_16_without_mark(raw, path)
    try:
        raw.decode(UTF_8)
    except UnicodeDecodeError:
        # Valid multi-byte sequences hardly ever occur by chance: a file with mostly those is damaged UTF-8.
        multibyte_chars = _UTF_8_CHAR.findall(raw)
        num_strays = sum(byte >= 0x80 for byte in _UTF_8_CHAR.sub(b"", raw))
        return UTF_8 if len(multibyte_chars) > num_strays else None
    return UTF_8


def _utf_16_without_mark(raw: bytes, path: Path) -> str:
    """Detect UTF-16 without a byte order mark.

    The zero bytes of line feeds and separators are all on one side. UTF-8 with a few stray zero bytes is not taken for
    UTF-16.
    """
    for encoding, zeros in (("utf-16-le", raw[1::2]), ("utf-16-be", raw[::2])):
        if len(raw) % 2 == 0 and zeros.count(0) == raw.count(0) and not _is_utf_8_with_strays(raw):
            return encoding
    raise DataError(
        "contains null bytes: not a text file",
        where=printable(path),
        hint=f"Remove them; if the file is UTF-16, set `{_PROFILE_KEY}: utf-16`.",
        code="not-text",
    )


def _is_utf_8_with_strays(raw: bytes) -> bool:
    """Whether these bytes are UTF-8 with less than a quarter of zeros; UTF-16 of mostly ASCII letters has more."""
    try:
        raw.decode(UTF_8)
    except UnicodeDecodeError:
        return False
    return 4 * raw.count(0) < len(raw)


def _detected(raws: Sequence[bytes], path: Path) -> str:
    """Detect the encoding from the lines with non-ASCII letters."""
    # Imported lazily: few files need it.
    from charset_normalizer import from_bytes

    sample = _sample(raws)
    candidates = [
        one
        for one in from_bytes(sample, cp_isolation=list(_CANDIDATES), threshold=_MAX_CHAOS)
        if one.coherence >= _MIN_COHERENCE or not set(one.could_be_from_charset) <= _SINGLE_BYTE_ALPHABETS
    ]
    if not candidates:
        raise DataError(
            "not UTF-8, and its encoding cannot be detected",
            where=f"{printable(path)}:{_first_non_ascii_line(raws[0])}",
            hint=f"Set `{_PROFILE_KEY}` to its name (cp1252, gbk, shift_jis, ...), or save the file as UTF-8.",
            code="encoding-unknown",
        )
    min_chaos = min(one.chaos for one in candidates)
    low_chaos = [one for one in candidates if one.chaos <= min_chaos + _CHAOS_TOLERANCE]
    max_coherence = max(one.coherence for one in low_chaos)
    tied = {
        name
        for one in low_chaos
        if one.coherence >= max_coherence - _COHERENCE_TOLERANCE
        for name in one.could_be_from_charset
        if name in _CANDIDATES
    }
    return min(tied, key=lambda name: (_is_unlikely(sample, name), _CANDIDATES.index(name)))


def _is_unlikely(sample: bytes, encoding: str) -> bool:
    """Whether the decoded text has characters only in an encoding's extensions, or kana in a Chinese encoding."""
    text = sample.decode(encoding, errors="replace")
    try:
        text.encode(_CORE_CHARSETS.get(encoding, encoding))
    except UnicodeError:
        return True
    return encoding in ("gb18030", "big5") and _KANA.search(text) is not None


def _sample(raws: Sequence[bytes]) -> bytes:
    """Return the first whole lines with non-ASCII bytes, up to about `_SAMPLE_BYTES` bytes."""
    lines: list[bytes] = []
    size = 0
    for raw in raws:
        for line in _NOT_ASCII.finditer(raw):
            lines.append(line.group())
            size += len(lines[-1])
            if size >= _SAMPLE_BYTES:
                return b"\n".join(lines)
    return b"\n".join(lines)


def _decode_strictly(raw: bytes, path: Path, encoding: str, declared: bool) -> str:
    name = "utf-8-sig" if _canonical_name(encoding) == UTF_8 else encoding
    try:
        return raw.decode(name)
    except UnicodeDecodeError as error:
        line = raw[: error.start].decode(name, errors="replace").count("\n") + 1
        origin = (
            "`data.encoding` says"
            if declared
            else "the rest of it is"
            if encoding.startswith("utf")
            else "was detected"
        )
        raise DataError(
            f"not {_canonical_name(encoding)}, as {origin}: {error.reason}, byte 0x{raw[error.start]:02x}",
            where=f"{printable(path)}:{line}",
            hint=f"Fix this line, save the file as UTF-8, or set `{_PROFILE_KEY}` to its encoding.",
            code="encoding-mismatch",
        ) from error


def _canonical_name(encoding: str) -> str:
    """Return the usual name of an encoding, for notes; Unicode ones without their byte order mark."""
    return {"utf-8-sig": UTF_8, "utf8": UTF_8, "utf_8": UTF_8, "utf_8_sig": UTF_8}.get(
        encoding.lower(), encoding
    )


def _first_non_ascii_line(raw: bytes) -> int:
    offset = next((index for index, byte in enumerate(raw) if byte >= 0x80), 0)
    return raw.count(b"\n", 0, offset) + 1
