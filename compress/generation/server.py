"""Generation through an OpenAI-compatible server: concurrent requests, retried with backoff."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
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
from compress.generation.answers import Answer, FinishReason
from compress.generation.prompts import before_stop
from compress.generation.responses import retry_after, token_usage
from compress.generation.writing import GenerationRequest, GenerationSettings, token_bound, tokens_used
from compress.profile.specs.server import ServerSpec

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
"""Initial and maximum delay before a retry; it doubles each time."""
_POLL_INTERVAL_S = 0.5
"""Interval at which the progress bar is told of the server's state."""
_MIN_KEY_LENGTH = 16
"""Minimum length of a key that is redacted in answers: shorter ones, as of local servers, may occur as ordinary
words."""
_MAX_RESPONSE_BYTES = 16 * MIB
"""Maximum bytes of a response."""
_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "end",
    "eos": "end",
    "eos_token": "end",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "filter",
}
"""Our end reasons by servers' `finish_reason`."""
_NEWER_LIMIT_NAME = "max_completion_tokens"
"""Name that some servers require instead of `max_tokens`, and name in their error; most know only `max_tokens`."""
_FATAL_STATUSES = {
    401: ("rejects the key", "server-key"),
    402: ("requires payment", "server-quota"),
    403: ("forbids the request", "server-forbidden"),
    404: ("does not know the model or the address", "server-no-model"),
}


class _Retry(Exception):
    """The request failed but may be retried.

    `busy`: the server is healthy but overloaded; `after`: seconds that it asks to wait.
    """

    def __init__(self, reason: str, *, busy: bool = False, after: float = 0.0) -> None:
        super().__init__(reason)
        self.busy, self.after = busy, after


class _Aborted(Exception):
    """Another request has failed for good, so that the work is aborted."""


def generate_remote(
    server: ServerSpec,
    requests: Iterator[GenerationRequest],
    settings: GenerationSettings,
    existing: Iterable[Answer],
    advance: Advance,
    tokens_spent: int = 0,
) -> Generator[Answer]:
    """Yield the answers to the requests in order of completion.

    If one request fails for good, those in flight are awaited and their answers yielded before the error is raised.

    Args:
        requests: consumed lazily, in this thread.
        existing: existing answers, which count towards the token limit.
        advance: is told what the server is waited for.
        tokens_spent: tokens already used elsewhere of the token limit.

    Raises:
        DataError: a conversation is sent to `completions`.
        ModelError: the server rejects a request, or gave no answer for `patience_s`.
        ResourceError: `max_tokens_total` or the quota of the key is exhausted.
    """
    request = next(requests, None)
    if request is None:
        return
    client, num_answers = _Client(server, settings), 0
    token_limit = server.max_tokens_total or float("inf")
    for answer in existing:
        num_answers, tokens_spent = num_answers + 1, tokens_spent + tokens_used(answer, settings)
    pending: dict[Future[Answer], int] = {}
    failure: BaseException | None = None
    shown_note = ""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
        while True:
            while request is not None and failure is None and len(pending) < server.concurrency:
                max_needed = token_bound(request, settings)
                if tokens_spent + sum(pending.values()) + max_needed > token_limit:
                    if not pending:
                        failure = _limit_error(server, tokens_spent, max_needed)
                    break
                pending[portal.start_task_soon(client.answer, request)] = max_needed
                request = next(requests, None)
            if not pending:
                break
            done = wait(pending, timeout=_POLL_INTERVAL_S, return_when=FIRST_COMPLETED).done
            if client.status_note != shown_note:
                advance(0, note=(shown_note := client.status_note))
            for future in done:
                del pending[future]
                error = future.exception()
                if error is None:
                    answer = future.result()
                    num_answers, tokens_spent = num_answers + 1, tokens_spent + tokens_used(answer, settings)
                    yield answer
                elif not isinstance(error, _Aborted):
                    failure = failure or error
    if isinstance(failure, CompressError):
        continue_hint = f"{num_answers} answers are kept; run the same command to continue with the rest."
        failure.hint = f"{failure.hint} {continue_hint}" if failure.hint else continue_hint
    if failure is not None:
        raise failure


class _Client:
    """HTTP client, run in the event loop of a single thread: its clocks and counters need no locks."""

    def __init__(self, server: ServerSpec, settings: GenerationSettings) -> None:
        if settings.sampling.top_k:
            raise ModelError(
                "the server's protocol has no `top_k`: leave it out, or use `top_p`",
                where=server.url,
                code="server-top-k",
            )
        self._server, self._settings = server, settings
        self._key = server.key()
        self._endpoint = server.url + ("/chat/completions" if server.api == "chat" else "/completions")
        self._limit_name, self.status_note = "max_tokens", ""
        self._interval_s = 60 / server.requests_per_minute if server.requests_per_minute else 0.0
        self._next_send_at = self._last_answer_at = monotonic()
        self._aborted = anyio.Event()
        # Their log messages quote the server, which might repeat the key.
        for name in ("httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        is_unencrypted = urlsplit(server.url).scheme == "http"
        self._http = httpx2.AsyncClient(
            headers={
                "Accept-Encoding": "identity",
                "User-Agent": "compress",
                **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            },
            # A proxy from the environment could read unencrypted traffic.
            trust_env=not is_unencrypted,
            # Loading the trusted certificates takes a while and is useless without encryption.
            verify=not is_unencrypted,
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

    async def answer(self, request: GenerationRequest) -> Answer:
        """Send a request and retry until there is an answer.

        Raises:
            CompressError: the request failed for good.
            _Aborted: another request failed for good meanwhile.
        """
        try:
            return await self._answer(request)
        except BaseException:
            self._aborted.set()
            raise

    async def _answer(self, request: GenerationRequest) -> Answer:
        patience_from, backoff = monotonic(), FIRST_BACKOFF_S
        while True:
            patience_from += await self._turn()
            began, limit = monotonic(), self._limit_name
            left = patience_from + self._server.patience_s - began
            try:
                with anyio.fail_after(min(self._server.timeout_s, left)):
                    answer = self._parse_response(
                        request, limit, *await self._post(self._body(request, limit))
                    )
                self._last_answer_at, self.status_note = monotonic(), ""
                return answer
            except _Retry as error:
                failure = error
            except TimeoutError:
                failure = _Retry(f"no answer within {monotonic() - began:.0f} s")
            except httpx2.HTTPError as error:
                reason = self._clean(first_line(error))
                if "CERTIFICATE_VERIFY_FAILED" in reason:
                    raise self._request_error(
                        f"failed certificate verification: {reason}", "server-certificate"
                    ) from None
                failure = _Retry(reason)
            self.status_note = f"waiting for the server: {failure}"
            if failure.busy:
                patience_from = max(patience_from, self._last_answer_at)
            pause = max(failure.after, uniform(backoff / 2, backoff))
            backoff = min(2 * backoff, MAX_BACKOFF_S)
            if monotonic() + pause > patience_from + self._server.patience_s:
                asks = f", and asks to wait for {failure.after:.0f} s" if failure.after else ""
                raise ModelError(
                    f"the server gave no answer for {monotonic() - patience_from:.0f} s: {failure}{asks}",
                    where=self._server.url,
                    hint=f"`patience_s` is {self._server.patience_s:g}; raise it to wait longer.",
                    code="server-silent",
                )
            await self._pause(pause)

    async def _turn(self) -> float:
        """Wait until a request may be sent; return the time waited in seconds."""
        began = monotonic()
        await self._pause(0)
        while (early := self._next_send_at - monotonic()) > 0:
            await self._pause(early)
        self._next_send_at = monotonic() + self._interval_s
        return monotonic() - began

    async def _pause(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._aborted.wait()
        if self._aborted.is_set():
            raise _Aborted

    def _body(self, request: GenerationRequest, limit: str) -> dict[str, Any]:
        """Return the JSON body of a request; `limit`: the server's name for the maximum number of new tokens."""
        sampling, chat = self._settings.sampling, self._server.api == "chat"
        if not chat and not isinstance(request.prompt, str):
            raise DataError(
                "`api: completions` continues texts, but this is a conversation: use `api: chat`",
                where=self._server.url,
                code="no-chat-template",
            )
        if chat and not isinstance(request.prompt, str) and "content" not in request.prompt[-1]:
            raise DataError(
                "`api: chat` answers prompts but cannot write them: use `api: completions`, with the text before "
                "a prompt",
                where=self._server.url,
                code="no-prompts",
            )
        turns = (
            [{"role": "user", "content": request.prompt}]
            if isinstance(request.prompt, str)
            else list(request.prompt)
        )
        body: dict[str, Any] = {"model": self._server.model, "temperature": sampling.temperature}
        body[limit] = self._settings.most
        body |= {"messages": turns} if chat else {"prompt": request.prompt}
        if sampling.temperature:
            # As for local models, each answer has its own seed; every server accepts 31 bits.
            body |= {"top_p": sampling.top_p, "seed": (int(request.key, 16) + sampling.seed) % 2**31}
        return body | ({"stop": list(self._settings.stops)} if self._settings.stops else {})

    async def _post(self, body: dict[str, Any]) -> tuple[httpx2.Response, bytes]:
        content = bytearray()
        async with self._http.stream("POST", self._endpoint, json=body) as response:
            async for piece in response.aiter_raw():
                content += piece
                if len(content) > _MAX_RESPONSE_BYTES:
                    raise _Retry(f"the response exceeds {_MAX_RESPONSE_BYTES // MIB} MiB")
        return response, bytes(content)

    def _parse_response(
        self, request: GenerationRequest, limit: str, response: httpx2.Response, content: bytes
    ) -> Answer:
        """Parse a response into an answer.

        Raises:
            _Retry: the request should be retried.
            CompressError: a retry would be useless.
        """
        try:
            body = parse_json(content, self._server.url, finite=False)
        except ModelError:
            body = None
        message = self._error_message(body)
        status = response.status_code
        if status == 200:
            return self._parse_answer(request, body, message)
        words = f"status {status}{f', {message}' if message else ''}"
        if limit != _NEWER_LIMIT_NAME and status == 400 and _NEWER_LIMIT_NAME in str(body):
            self._limit_name = _NEWER_LIMIT_NAME
            raise _Retry(words)
        if status == 429 and "insufficient_quota" in str(body):
            raise ResourceError(
                f"the quota of the key is used up: {words}", where=self._server.url, code="server-quota"
            )
        if status in (408, 409, 425, 429) or status >= 500:
            after = retry_after(response.headers)
            self._next_send_at = max(self._next_send_at, monotonic() + after)
            raise _Retry(words, busy=status == 429, after=after)
        if 300 <= status < 400:
            raise self._request_error(
                f"redirects elsewhere, and redirects are not followed ({words})", "server-moved"
            )
        prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[-1]["content"]
        rejection = f"rejects a prompt of {len(prompt)} characters that begins with {prompt[:40]!r}"
        what, code = _FATAL_STATUSES.get(status, (rejection, "server-refuses"))
        raise self._request_error(f"{what} ({words})", code)

    def _parse_answer(self, request: GenerationRequest, body: Any, error_message: str) -> Answer:
        try:
            choice = body["choices"][0]
            message = choice["message"] if self._server.api == "chat" else {"content": choice["text"]}
            text, reason, stop_reason = message["content"], choice["finish_reason"], choice.get("stop_reason")
            reasoning = message.get("reasoning_content") or message.get("reasoning")
            usage = body.get("usage") or {}
        except (LookupError, TypeError, AttributeError):
            raise _Retry(
                f"the response holds no answer{f': {error_message}' if error_message else ''}"
            ) from None
        finish_reason = _FINISH_REASONS.get(reason) if isinstance(reason, str) else None
        if text is None and (message.get("refusal") or reasoning or finish_reason in ("length", "filter")):
            text, finish_reason = "", "filter" if message.get("refusal") else finish_reason
        if not isinstance(text, str) or finish_reason is None:
            raise _Retry(f"the response is not a finished answer: finish_reason {self._clean(repr(reason))}")
        if isinstance(reasoning, str) and reasoning:
            text = f"<think>\n{reasoning}\n</think>\n\n{text}"
        cut = before_stop(text, self._settings.stops)
        if cut is not None or (finish_reason == "end" and stop_reason in self._settings.stops):
            finish_reason = "stop"
        text = text if cut is None else cut
        if self._key is not None and len(self._key) >= _MIN_KEY_LENGTH and self._key in text:
            text, finish_reason = self._redact_key(text), "key"
        return Answer(
            request.key, request.prompt, request.sample, text, [], finish_reason, token_usage(usage)
        )

    def _error_message(self, body: Any) -> str:
        """Return the server's error message, shortened."""
        error = body.get("error", body) if isinstance(body, dict) else None
        message = error.get("message", error.get("detail")) if isinstance(error, dict) else error
        return self._clean(message) if isinstance(message, str) else ""

    def _clean(self, text: str) -> str:
        """Sanitize and shorten text from a server for an error message."""
        return printable(self._redact_key(text)[:300])

    def _redact_key(self, text: str) -> str:
        """Redact the key, which a server's text might repeat."""
        return text.replace(self._key, "***") if self._key else text

    def _request_error(self, what: str, code: str) -> ModelError:
        hint = f"The key comes from the environment variable {self._server.key_env}." if self._key else None
        return ModelError(
            f"the server {what}; asked for the model {self._server.model!r}",
            where=self._endpoint,
            hint=hint if code in ("server-key", "server-forbidden") else None,
            code=code,
        )


def _limit_error(server: ServerSpec, tokens_spent: int, max_needed: int) -> ResourceError:
    return ResourceError(
        f"{tokens_spent} of `max_tokens_total: {server.max_tokens_total}` are used, and the next request "
        f"may need {max_needed}",
        where=server.url,
        hint="Raise it to continue.",
        code="max-tokens-total",
    )
