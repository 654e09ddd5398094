"""What the response of an OpenAI-compatible server says beside the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any


def token_usage(usage: Any) -> dict[str, int] | None:
    """Return the token counts of prompt and answer, if the server reports them."""
    if not isinstance(usage, dict):
        return None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    if not all(isinstance(one, int) and one >= 0 for one in counts):
        return None
    return {"prompt": int(counts[0] or 0), "answer": int(counts[1] or 0)}


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of `Retry-After`, a number or a date (RFC 9110, 10.2.3); 0 if there is none."""
    value = headers.get("retry-after", "")
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        retry_at = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    retry_at = retry_at if retry_at.tzinfo else retry_at.replace(tzinfo=UTC)
    return max(0.0, (retry_at - datetime.now(UTC)).total_seconds())
