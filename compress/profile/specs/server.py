"""A server with OpenAI's API that generates texts: its address, and limits on the requests."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from compress.core.disk.files import digest_of
from compress.core.errors import ModelError
from compress.core.spec import Positive, Seconds, Spec


class ServerSpec(Spec):
    """A model behind an OpenAI-compatible server. Only the texts that it writes are used, not its probabilities."""

    # A rejected value may be a secret, so errors do not show it. Fields excluded from dumps control how
    # requests are sent; they affect neither the server's answers nor what is derived from them.
    model_config = ConfigDict(hide_input_in_errors=True)

    url: str
    """Base URL, the part before `/chat/completions`: `https://api.openai.com/v1` or `http://127.0.0.1:8000/v1`."""
    model: Annotated[str, Field(min_length=1)]
    """Name of the model on the server."""
    api: Literal["chat", "completions"] = "chat"
    """`chat` takes conversations, and sends a plain text as the first turn; `completions` continues texts."""
    template: Literal["teacher"] | None = None
    """`teacher`: format requests to `completions` with the chat template of the profile's teacher, a plain text as the
    first turn. The model behind the server must have the same template and tokenizer. Unset: no template; not for
    `chat`."""
    key_env: str | None = Field(default=None, exclude=True)
    """Environment variable that holds the API key (`OPENAI_API_KEY`); the key itself is never written to a file. Unset:
    no key."""
    concurrency: Annotated[int, Field(ge=1, le=256, exclude=True)] = 4
    """Maximum number of concurrent requests."""
    requests_per_minute: Positive | None = Field(default=None, exclude=True)
    """Maximum number of requests per minute, retries included; unset: no limit."""
    max_tokens_total: Positive | None = Field(default=None, exclude=True)
    """Maximum number of tokens of prompts and answers, as the server counts them, over all runs that add to the same
    file of answers; prompts that a teacher writes count too. A request is sent only while the bytes of its prompt and
    the longest possible answer fit. Unset: no limit."""
    timeout_s: Seconds = Field(default=120, exclude=True)
    """Timeout of a request, in seconds."""
    patience_s: Seconds = Field(default=300, exclude=True)
    """Seconds for which a request is retried while the server is silent, busy or failing."""
    plain_http: bool = Field(default=False, exclude=True)
    """Allow texts and key to be sent unencrypted to hosts other than this machine and private addresses."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = _parse_url(url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected the URL of a server, such as https://api.openai.com/v1")
        if "@" in parts.netloc or "?" in url or "#" in url:
            raise ValueError(
                "expected a URL without user names, passwords, `?` and `#`: give the key with `key_env`"
            )
        # The client decides by the scheme whether to encrypt, and the address is part of the cache key:
        # normalise the spelling.
        return parts.scheme + url[len(parts.scheme) :].rstrip("/")

    @field_validator("key_env")
    @classmethod
    def _check_key_env(cls, name: str | None) -> str | None:
        # API keys have mixed case or hyphens: one pasted here by mistake is detected, and not repeated in the message.
        if name is not None and re.fullmatch("[A-Z_][A-Z0-9_]*", name) is None:
            raise ValueError(
                "expected the name of an environment variable in capitals, such as OPENAI_API_KEY; a key that "
                "was written here is now in a file: replace it with a new one"
            )
        return name

    @model_validator(mode="after")
    def _check_encryption(self) -> ServerSpec:
        parts = urlsplit(self.url)
        if parts.scheme == "http" and not self.plain_http and not _is_private_host(parts.hostname or ""):
            raise ValueError(
                f"`url`: {parts.hostname} is neither this machine nor a private address, and http is not encrypted: "
                "use https, or allow it with `plain_http: true`"
            )
        return self

    @model_validator(mode="after")
    def _check_template(self) -> ServerSpec:
        if self.template is not None and self.api == "chat":
            raise ValueError(
                "`template` is for `api: completions`: with `chat` the server uses its own template"
            )
        return self

    @property
    def digest(self) -> str:
        """Digest of the settings that determine the server's answers."""
        return digest_of(self.model_dump(exclude_none=True))

    def key(self) -> str | None:
        """Return the API key from the environment; None if the server needs none.

        Raises:
            ModelError: the variable is not set, or its value cannot be a key (`no-key`).
        """
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "")
        if re.fullmatch("[!-~]+", key) is None:
            problem = (
                "contains spaces, line breaks or non-ASCII characters, which no key has"
                if key
                else "is not set"
            )
            raise ModelError(
                f"the environment variable {self.key_env} {problem}; it must hold the server's key",
                where=self.url,
                code="no-key",
            )
        return key


def _parse_url(url: str) -> SplitResult | None:
    """Return the parts of a URL; None if it is not valid."""
    if re.fullmatch("[!-~]+", url) is None:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_private_host(host: str) -> bool:
    """Whether a host is this machine or a private address; False for other names, which may resolve to any address."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_private)
