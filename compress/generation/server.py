"""Generation through an OpenAI-compatible server: concurrent requests, retried with backoff."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import uniform
from time import monotonic
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
from anyio.from_thread import start_blocking_portal

from compress.core.disk.reading import parse_json
from compress.core.errors import CompressError, DataError, ModelError, ResourceError, first_line
from compress.core.terminal.printing import printable
from compress.core.terminal.progress import Advance
from compress.core.units import MIB
from compress.generation.answers import Answer, Ended
from compress.generation.prompts import cut_at
from compress.generation.writing import GenerationRequest, GenerationSettings, token_bound, tokens_used
from compress.profile.specs.server import ServerSpec

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
"""Initial and maximum delay before a retry; it doubles each time."""
_LOOKED_AT_S = 0.5
"""Interval at which the progress bar is told of the server's state."""
_FEWEST_LETTERS = 16
"""Minimum length of a key that is redacted in answers: shorter ones, as of local servers, may occur as ordinary
words."""
_LARGEST = 16 * MIB
"""Maximum bytes of a response."""
_ENDED: dict[str, Ended] = {
    "stop": "end",
    "eos": "end",
    "eos_token": "end",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "filter",
}
"""Our end reasons by servers' `finish_reason`."""
_NEWER_LIMIT = "max_completion_tokens"
"""Name that some servers require instead of `max_tokens`, and name in their error; most know only `max_tokens`."""
_REFUSED = {
    401: ("rejects the key", "server-key"),
    402: ("requires payment", "server-quota"),
    403: ("forbids the request", "server-forbidden"),
    404: ("does not know the model or the address", "server-no-model"),
}


class _Again(Exception):
    """The request failed but may be retried.

    `busy`: the server is healthy but overloaded; `after`: seconds that it asks to wait.
    """

    def __init__(self, reason: str, *, busy: bool = False, after: float = 0.0) -> None:
        super().__init__(reason)
        self.busy, self.after = busy, after


class _Over(Exception):
    """Another request has failed for good, so that the work is aborted."""


def generate_remote(
    server: ServerSpec,
    asked: Iterator[GenerationRequest],
    how: GenerationSettings,
    there: Iterable[Answer],
    advance: Advance,
    spent: int = 0,
) -> Generator[Answer]:
    """Yield the answers to the requests in order of completion.

    If one request fails for good, those in flight are awaited and their answers yielded before the error is raised.

    Args:
        asked: consumed lazily, in this thread.
        there: existing answers, which count towards the token limit.
        advance: is told what the server is waited for.
        spent: tokens already used elsewhere of the token limit.

    Raises:
        DataError: a conversation is sent to `completions`.
        ModelError: the server rejects a request, or gave no answer for `patience_s`.
        ResourceError: `max_tokens_total` or the quota of the key is exhausted.
    """
    one = next(asked, None)
    if one is None:
        return
    client, kept = _Client(server, how), 0
    for answer in there:
        kept, spent = kept + 1, spent + tokens_used(answer, how)
    pending: dict[Future[Answer], int] = {}
    fault: BaseException | None = None
    told = ""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
        while True:
            while one is not None and fault is None and len(pending) < server.concurrency:
                needs = token_bound(one, how)
                if spent + sum(pending.values()) + needs > (server.max_tokens_total or float("inf")):
                    if not pending:
                        fault = _used_up(server, spent, needs)
                    break
                pending[portal.start_task_soon(client.answer, one)] = needs
                one = next(asked, None)
            if not pending:
                break
            done = wait(pending, timeout=_LOOKED_AT_S, return_when=FIRST_COMPLETED).done
            if client.trouble != told:
                advance(0, note=(told := client.trouble))
            for future in done:
                del pending[future]
                error = future.exception()
                if error is None:
                    answer = future.result()
                    kept, spent = kept + 1, spent + tokens_used(answer, how)
                    yield answer
                elif not isinstance(error, _Over):
                    fault = fault or error
    if isinstance(fault, CompressError):
        kept_words = f"{kept} answers are kept; run the same command to continue with the rest."
        fault.hint = f"{fault.hint} {kept_words}" if fault.hint else kept_words
    if fault is not None:
        raise fault


class _Client:
    """HTTP client, run in the event loop of a single thread: its clocks and counters need no locks."""

    def __init__(self, server: ServerSpec, how: GenerationSettings) -> None:
        if how.sampling.top_k:
            raise ModelError(
                "the server's protocol has no `top_k`: leave it out, or use `top_p`",
                where=server.url,
                code="server-top-k",
            )
        self._server, self._how = server, how
        self._key = server.key()
        self._address = server.url + ("/chat/completions" if server.api == "chat" else "/completions")
        self._limit, self.trouble = "max_tokens", ""
        self._every = 60 / server.requests_per_minute if server.requests_per_minute else 0.0
        self._free = self._heard = monotonic()
        self._over = anyio.Event()
        # Their log messages quote the server, which might repeat the key.
        for name in ("httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        plain = urlsplit(server.url).scheme == "http"
        self._http = httpx2.AsyncClient(
            headers={
                "Accept-Encoding": "identity",
                "User-Agent": "compress",
                **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            },
            # A proxy from the environment could read unencrypted traffic.
            trust_env=not plain,
            # Loading the trusted certificates takes a while and is useless without encryption.
            verify=not plain,
            # Redirects are errors; without keep-alive a duplicate response is not taken for that of the next request.
            follow_redirects=False,
            limits=httpx2.Limits(max_keepalive_connections=0),
            timeout=None,
        )

    async def __aenter__(self) -> _Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def answer(self, one: GenerationRequest) -> Answer:
        """Send a request and retry until there is an answer.

        Raises:
            CompressError: the request failed for good.
            _Over: another request failed for good meanwhile.
        """
        try:
            return await self._answer(one)
        except BaseException:
            self._over.set()
            raise

    async def _answer(self, one: GenerationRequest) -> Answer:
        since, longest = monotonic(), FIRST_WAIT_S
        while True:
            since += await self._turn()
            began, limit = monotonic(), self._limit
            left = since + self._server.patience_s - began
            try:
                with anyio.fail_after(min(self._server.timeout_s, left)):
                    answer = self._read(one, limit, *await self._post(self._body(one, limit)))
                self._heard, self.trouble = monotonic(), ""
                return answer
            except _Again as error:
                again = error
            except TimeoutError:
                again = _Again(f"no answer within {monotonic() - began:.0f} s")
            except httpx2.HTTPError as error:
                reason = self._clean(first_line(error))
                if "CERTIFICATE_VERIFY_FAILED" in reason:
                    raise self._refused(
                        f"failed certificate verification: {reason}", "server-certificate"
                    ) from None
                again = _Again(reason)
            self.trouble = f"waiting for the server: {again}"
            if again.busy:
                since = max(since, self._heard)
            pause = max(again.after, uniform(longest / 2, longest))
            longest = min(2 * longest, LONGEST_WAIT_S)
            if monotonic() + pause > since + self._server.patience_s:
                asks = f", and asks to wait for {again.after:.0f} s" if again.after else ""
                raise ModelError(
                    f"the server gave no answer for {monotonic() - since:.0f} s: {again}{asks}",
                    where=self._server.url,
                    hint=f"`patience_s` is {self._server.patience_s:g}; raise it to wait longer.",
                    code="server-silent",
                )
            await self._pause(pause)

    async def _turn(self) -> float:
        """Wait until a request may be sent; return the time waited in seconds."""
        began = monotonic()
        await self._pause(0)
        while (early := self._free - monotonic()) > 0:
            await self._pause(early)
        self._free = monotonic() + self._every
        return monotonic() - began

    async def _pause(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._over.wait()
        if self._over.is_set():
            raise _Over

    def _body(self, one: GenerationRequest, limit: str) -> dict[str, Any]:
        """Return the JSON body of a request; `limit`: the server's name for the maximum number of new tokens."""
        drawn, chat = self._how.sampling, self._server.api == "chat"
        if not chat and not isinstance(one.prompt, str):
            raise DataError(
                "`api: completions` continues texts, but this is a conversation: use `api: chat`",
                where=self._server.url,
                code="no-chat-template",
            )
        if chat and not isinstance(one.prompt, str) and "content" not in one.prompt[-1]:
            raise DataError(
                "`api: chat` answers prompts but cannot write them: use `api: completions`, with the text before "
                "a prompt",
                where=self._server.url,
                code="no-prompts",
            )
        turns = [{"role": "user", "content": one.prompt}] if isinstance(one.prompt, str) else list(one.prompt)
        body: dict[str, Any] = {"model": self._server.model, "temperature": drawn.temperature}
        body[limit] = self._how.most
        body |= {"messages": turns} if chat else {"prompt": one.prompt}
        if drawn.temperature:
            # As for local models, each answer has its own seed; every server accepts 31 bits.
            body |= {"top_p": drawn.top_p, "seed": (int(one.key, 16) + drawn.seed) % 2**31}
        return body | ({"stop": list(self._how.stops)} if self._how.stops else {})

    async def _post(self, body: dict[str, Any]) -> tuple[httpx2.Response, bytes]:
        content = bytearray()
        async with self._http.stream("POST", self._address, json=body) as response:
            async for piece in response.aiter_raw():
                content += piece
                if len(content) > _LARGEST:
                    raise _Again(f"the response exceeds {_LARGEST // MIB} MiB")
        return response, bytes(content)

    def _read(self, one: GenerationRequest, limit: str, response: httpx2.Response, content: bytes) -> Answer:
        """Parse a response into an answer.

        Raises:
            _Again: the request should be retried.
            CompressError: a retry would be useless.
        """
        try:
            body = parse_json(content, self._server.url, finite=False)
        except ModelError:
            body = None
        said = self._said(body)
        status = response.status_code
        if status == 200:
            return self._taken(one, body, said)
        words = f"status {status}{f', {said}' if said else ''}"
        if limit != _NEWER_LIMIT and status == 400 and _NEWER_LIMIT in str(body):
            self._limit = _NEWER_LIMIT
            raise _Again(words)
        if status == 429 and "insufficient_quota" in str(body):
            raise ResourceError(
                f"the quota of the key is used up: {words}", where=self._server.url, code="server-quota"
            )
        if status in (408, 409, 425, 429) or status >= 500:
            after = _asked_to_wait(response.headers)
            self._free = max(self._free, monotonic() + after)
            raise _Again(words, busy=status == 429, after=after)
        if 300 <= status < 400:
            raise self._refused(
                f"redirects elsewhere, and redirects are not followed ({words})", "server-moved"
            )
        prompt = one.prompt if isinstance(one.prompt, str) else one.prompt[-1]["content"]
        begins = f"rejects a prompt of {len(prompt)} characters that begins with {prompt[:40]!r}"
        what, code = _REFUSED.get(status, (begins, "server-refuses"))
        raise self._refused(f"{what} ({words})", code)

    def _taken(self, one: GenerationRequest, body: Any, said: str) -> Answer:
        try:
            choice = body["choices"][0]
            message = choice["message"] if self._server.api == "chat" else {"content": choice["text"]}
            text, reason, stopped = message["content"], choice["finish_reason"], choice.get("stop_reason")
            thought = message.get("reasoning_content") or message.get("reasoning")
            used = body.get("usage") or {}
        except (LookupError, TypeError, AttributeError):
            raise _Again(f"the response holds no answer{f': {said}' if said else ''}") from None
        ended = _ENDED.get(reason) if isinstance(reason, str) else None
        if text is None and (message.get("refusal") or thought or ended in ("length", "filter")):
            text, ended = "", "filter" if message.get("refusal") else ended
        if not isinstance(text, str) or ended is None:
            raise _Again(f"the response is not a finished answer: finish_reason {self._clean(repr(reason))}")
        if isinstance(thought, str) and thought:
            text = f"<think>\n{thought}\n</think>\n\n{text}"
        cut = cut_at(text, self._how.stops)
        if cut is not None or (ended == "end" and stopped in self._how.stops):
            ended = "stop"
        text = text if cut is None else cut
        if self._key is not None and len(self._key) >= _FEWEST_LETTERS and self._key in text:
            text, ended = self._without_key(text), "key"
        return Answer(one.key, one.prompt, one.sample, text, [], ended, _counted(used))

    def _said(self, body: Any) -> str:
        """Return the server's error message, shortened."""
        error = body.get("error", body) if isinstance(body, dict) else None
        message = error.get("message", error.get("detail")) if isinstance(error, dict) else error
        return self._clean(message) if isinstance(message, str) else ""

    def _clean(self, text: str) -> str:
        """Sanitize and shorten text from a server for an error message."""
        return printable(self._without_key(text)[:300])

    def _without_key(self, text: str) -> str:
        """Redact the key, which a server's text might repeat."""
        return text.replace(self._key, "***") if self._key else text

    def _refused(self, what: str, code: str) -> ModelError:
        hint = f"The key comes from the environment variable {self._server.key_env}." if self._key else None
        return ModelError(
            f"the server {what}; asked for the model {self._server.model!r}",
            where=self._address,
            hint=hint if code in ("server-key", "server-forbidden") else None,
            code=code,
        )


def _used_up(server: ServerSpec, spent: int, needs: int) -> ResourceError:
    return ResourceError(
        f"{spent} of `max_tokens_total: {server.max_tokens_total}` are used, and the next request may need {needs}",
        where=server.url,
        hint="Raise it to continue.",
        code="max-tokens-total",
    )


def _counted(used: Any) -> dict[str, int] | None:
    """Return the token counts of prompt and answer, if the server reports them."""
    if not isinstance(used, dict):
        return None
    found = [used.get("prompt_tokens"), used.get("completion_tokens")]
    if not all(isinstance(one, int) and one >= 0 for one in found):
        return None
    return {"prompt": int(found[0] or 0), "answer": int(found[1] or 0)}


def _asked_to_wait(headers: httpx2.Headers) -> float:
    """Return the seconds of `Retry-After`, a number or a date (RFC 9110, 10.2.3); 0 if there is none."""
    said = headers.get("retry-after", "")
    if re.fullmatch(r"\d{1,9}(\.\d+)?", said):
        return float(said)
    try:
        when = parsedate_to_datetime(said)
    except ValueError:
        return 0.0
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
