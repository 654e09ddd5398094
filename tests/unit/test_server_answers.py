"""A server writes answers: each once, whatever the network does, within what it may be asked."""

from __future__ import annotations

import json
import logging
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from pydantic import ValidationError

from compress.core.errors import CompressError, DataError, ModelError, ResourceError
from compress.generation import server as asking
from compress.generation.answers import Answer, read_answers
from compress.generation.writing import GenerationSettings, answer_key, answers_file, write_answers
from compress.models.text.chat import EMPTY_USER_TURN
from compress.profile.specs.server import ServerSpec
from compress.runtimes.decoding import Sampling
from tests.speaking_server import FAULTS, Proxy, Scripted, Speaker, listening, text_of

SECRET = "sk-Very/Secret+42"
DRAWN = Sampling(temperature=0.7, top_p=0.9, seed=3)
PROMPTS = [f"cat {number}" for number in range(20)]


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(asking, "MAX_BACKOFF_S", 0.05)
    monkeypatch.setattr(asking, "_POLL_INTERVAL_S", 0.05)
    monkeypatch.setenv("A_KEY", SECRET)


def spec(url: str, **keys: Any) -> ServerSpec:
    return ServerSpec.model_validate({"url": url, "model": "scripted", "patience_s": 20, **keys})


def answers(
    server: ServerSpec, prompts: Any, how: GenerationSettings, folder: Path, **said: Any
) -> dict[str, Answer]:
    found = list(read_answers(write_answers(server, prompts, how, folder, **said)))
    assert len({answer.key for answer in found}) == len(found)
    return {answer.key: answer for answer in found}


def one_answer(folder: Path, body: object, stops: tuple[str, ...] = (), **keys: Any) -> Answer:
    with listening(Scripted(200, body)) as there:
        (found,) = answers(
            spec(there.url, patience_s=0.2, **keys), ["hi"], GenerationSettings(8, stops=stops), folder
        ).values()
    return found


def chat(content: object, reason: object = "stop", **message: object) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": reason}]}


@pytest.mark.parametrize(("seed", "api"), [(0, "chat"), (1, "chat"), (2, "completions")])
def test_whatever_happens_each_is_answered_once(seed: int, api: str, tmp_path: Path):
    chance = random.Random(seed)
    quick = [fault for fault in FAULTS if fault != "slow"]
    faults = [*(FAULTS if seed == 0 else quick), *chance.choices([*quick, *[None] * 16], k=900)]
    how = GenerationSettings(40, DRAWN, samples=2)
    with (
        listening(Speaker(key=SECRET)) as speaker,
        listening(Proxy(speaker, faults.__getitem__, slow=1.1)) as proxy,
    ):
        server = spec(proxy.url, api=api, concurrency=8, timeout_s=1, key_env="A_KEY")
        found = answers(server, PROMPTS, how, tmp_path)
        assert isinstance(proxy, Proxy)
        assert set(proxy.faults) >= set(FAULTS if seed == 0 else quick)
        wanted = {(prompt, sample) for prompt in PROMPTS for sample in (0, 1)}
        assert {(one.prompt, one.sample) for one in found.values()} == wanted
        assert set(proxy.delivered.values()) == {1}
        assert len(proxy.delivered) == len(wanted)
        seeds = {(prompt, text_of(prompt, seed)): seed for prompt, seed in proxy.delivered}
        assert all((one.prompt, one.text) in seeds for one in found.values())
        assert len({seeds[one.prompt, one.text] for one in found.values()}) == len(wanted)
        # All of it is known now: nobody is asked.
        before = proxy.faults.total()
        told: list[int] = []
        again = answers(server, PROMPTS, how, tmp_path, advance=lambda steps=1, note=None: told.append(steps))
        assert (again, proxy.faults.total(), sum(told)) == (found, before, len(wanted))


@pytest.mark.parametrize("concurrency", [1, 5])
def test_so_many_are_asked_at_once(concurrency: int, tmp_path: Path):
    with listening(Speaker(0.1 if concurrency > 1 else 0.0)) as there:
        found = answers(spec(there.url, concurrency=concurrency), PROMPTS, GenerationSettings(3), tmp_path)
        assert isinstance(there, Speaker)
        assert (len(there.asked), there.most) == (20, concurrency)
    assert all((one.ended, one.tokens, len(one.text.split())) == ("length", [], 3) for one in found.values())
    assert {json.dumps(one.used) for one in found.values()} == {'{"prompt": 2, "answer": 3}'}


def test_a_killed_process_asks_for_the_rest(tmp_path: Path):
    prompts, code = (
        [f"dog {number}" for number in range(60)],
        """
import sys
from pathlib import Path
from compress.generation.writing import GenerationSettings, write_answers
from compress.profile.specs.server import ServerSpec
prompts = [f"dog {number}" for number in range(60)]
write_answers(ServerSpec(url=sys.argv[1], model="scripted"), prompts, GenerationSettings(9), Path(sys.argv[2]))
""",
    )
    with listening(Speaker(0.02)) as speaker, listening(Proxy(speaker, lambda number: None)) as proxy:
        assert isinstance(proxy, Proxy)
        process = subprocess.Popen([sys.executable, "-c", code, proxy.url, str(tmp_path)])
        while proxy.delivered.total() < 20:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        server = spec(proxy.url)
        kept = {one.prompt for one in read_answers(answers_file(tmp_path, server, GenerationSettings(9)))}
        assert 20 - server.concurrency <= len(kept) < 60
        found = answers(server, prompts, GenerationSettings(9), tmp_path)
        assert {one.prompt for one in found.values()} == set(prompts)
        twice = {prompt for (prompt, _), count in proxy.delivered.items() if count > 1}
        assert max(proxy.delivered.values()) <= 2
        assert len(twice) <= server.concurrency
        assert not twice & kept


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "code"),
    [
        (401, {"error": {"message": f"bad key {SECRET}"}}, {}, ModelError, "server-key"),
        (402, {}, {}, ModelError, "server-quota"),
        (403, b"no", {}, ModelError, "server-forbidden"),
        (404, {"error": {"message": "no model"}}, {}, ModelError, "server-no-model"),
        (400, {"detail": "top_p is too large"}, {}, ModelError, "server-refuses"),
        (302, b"", {"Location": "http://127.0.0.1:9/elsewhere"}, ModelError, "server-moved"),
        (429, {"error": {"code": "insufficient_quota", "message": "pay"}}, {}, ResourceError, "server-quota"),
    ],
)
def test_who_refuses_is_asked_once(
    status: int, body: object, headers: dict[str, str], kind: Any, code: str, tmp_path: Path
):
    with listening(Scripted(status, body, **headers)) as there:
        with pytest.raises(kind) as caught:
            write_answers(
                spec(there.url, key_env="A_KEY", concurrency=1),
                PROMPTS,
                GenerationSettings(8, DRAWN),
                tmp_path,
            )
        assert isinstance(there, Scripted)
        assert len(there.heads) == 1
    assert caught.value.code == code
    assert "0 answers are kept; run the same command to continue" in str(caught.value)
    assert SECRET not in str(caught.value)
    said = body.get("error", {}).get("message", body.get("detail")) if isinstance(body, dict) else None
    assert said is None or said.replace(SECRET, "***") in str(caught.value)


def test_what_is_in_flight_when_one_is_refused_is_kept(tmp_path: Path):
    class Picky(Speaker):
        def respond(self, handler: Any, body: bytes) -> None:
            if b"cat 3" in body:
                while len(self.asked) < 5:
                    time.sleep(0.005)
                handler.send(400, b'{"error": {"message": "not this one"}}')
            else:
                super().respond(handler, body)

    with listening(Picky(0.1)) as there:
        server = spec(there.url, concurrency=6)
        with pytest.raises(
            ModelError, match=r"a prompt of 5 characters that begins with 'cat 3'.*not this one"
        ) as caught:
            write_answers(server, PROMPTS, GenerationSettings(8), tmp_path)
        assert "5 answers are kept" in str(caught.value)
        kept = {one.prompt for one in read_answers(answers_file(tmp_path, server, GenerationSettings(8)))}
        assert kept == {f"cat {number}" for number in (0, 1, 2, 4, 5)}


@contextmanager
def dripping(piece: bytes) -> Iterator[str]:
    """A server that takes every request, and sends one piece after the other and no end."""
    there: list[socket.socket] = []

    def drip(server: socket.socket) -> None:
        try:
            there.append(server.accept()[0])
        except TimeoutError:
            for one in there if piece else ():
                with suppress(OSError):
                    one.send(piece)

    with serving(drip) as url:
        yield url
    for one in there:
        one.close()


@contextmanager
def rude(said: bytes) -> Iterator[str]:
    """A server that says the same to everybody, whatever HTTP wants, and hangs up."""

    def answer(server: socket.socket) -> None:
        with suppress(OSError), server.accept()[0] as one:
            one.recv(65536)
            one.sendall(said)

    with serving(answer) as url:
        yield url


@contextmanager
def serving(turn: Callable[[socket.socket], None]) -> Iterator[str]:
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.02)

        def serve() -> None:
            while not over.is_set():
                turn(server)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize(
    "piece",
    [b"", b"HTTP/1.1 200 OK\r\nX-A: b\r\n", b"HTTP/1.1 200 OK\r\n\r\n "],
    ids=["dead", "head", "body"],
)
def test_a_server_that_never_answers_ends_it_in_time(piece: bytes, tmp_path: Path):
    with dripping(piece) as url:
        began = time.monotonic()
        with pytest.raises(ModelError, match=r"(?s)gave no answer for .*`patience_s` is 0.4") as caught:
            write_answers(spec(url, timeout_s=0.15, patience_s=0.4), PROMPTS, GenerationSettings(8), tmp_path)
        assert time.monotonic() - began < 5
    assert (caught.value.code, caught.value.exit_code) == ("server-silent", 4)


def test_a_server_that_died_is_waited_for(tmp_path: Path):
    with listening(Speaker()) as there:
        port = there.server_address[1]
    server = spec(f"http://127.0.0.1:{port}/v1", patience_s=0.2)
    with pytest.raises(ModelError, match="server-silent"):
        write_answers(server, PROMPTS, GenerationSettings(8), tmp_path)
    over = threading.Event()

    def back() -> None:
        time.sleep(0.2)
        with listening(Speaker(port=port)):
            over.wait()

    thread = threading.Thread(target=back)
    thread.start()
    assert len(answers(spec(server.url), PROMPTS, GenerationSettings(8), tmp_path)) == len(PROMPTS)
    over.set()
    thread.join()


def test_who_stops_it_need_not_wait(tmp_path: Path):
    over = threading.Event()

    class Slow(Speaker):
        def respond(self, handler: Any, body: bytes) -> None:
            if b"cat 0" not in body:
                over.wait(60)
            super().respond(handler, body)

    def stop(steps: int = 1, note: str | None = None) -> None:
        raise KeyboardInterrupt

    with listening(Slow()) as there:
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            write_answers(spec(there.url), PROMPTS, GenerationSettings(8), tmp_path, advance=stop)
        assert time.monotonic() - began < 20
        over.set()
    assert [
        one.prompt for one in read_answers(answers_file(tmp_path, spec(there.url), GenerationSettings(8)))
    ] == ["cat 0"]


def test_who_asks_to_wait_is_not_asked_before(tmp_path: Path):
    class Busy(Speaker):
        when: tuple[float, ...] = ()

        def respond(self, handler: Any, body: bytes) -> None:
            self.when += (time.monotonic(),)
            if len(self.when) == 1:
                handler.send(429, b"", Retry_After="0.3")
            else:
                super().respond(handler, body)

    notes: list[str | None] = []
    with listening(Busy()) as there:
        server = spec(there.url, concurrency=1)
        found = answers(
            server,
            PROMPTS[:3],
            GenerationSettings(8),
            tmp_path,
            advance=lambda steps=1, note=None: notes.append(note),
        )
        assert len(found) == 3
        assert [*dict.fromkeys(notes)] == ["waiting for the server: status 429", "", None]
        assert isinstance(there, Busy)
        assert there.when[1] - there.when[0] >= 0.3
    hour = formatdate(time.time() + 3600, usegmt=True)
    for after in ("3600", hour):
        with (
            listening(Scripted(503, b"", Retry_After=after)) as there,
            pytest.raises(ModelError, match=r"asks to wait for 3[56]"),
        ):
            write_answers(spec(there.url), PROMPTS, GenerationSettings(8), tmp_path / "other")


def test_no_more_are_asked_a_minute_than_allowed(tmp_path: Path):
    with listening(Speaker()) as there:
        began = time.monotonic()
        answers(
            spec(there.url, requests_per_minute=1200, concurrency=8),
            PROMPTS[:9],
            GenerationSettings(8),
            tmp_path,
        )
        assert time.monotonic() - began >= 8 * 60 / 1200


def test_no_more_tokens_are_used_than_allowed(tmp_path: Path):
    how = GenerationSettings(8)
    with listening(Speaker()) as there:
        limit = 40
        with pytest.raises(ResourceError, match=r"\d+ of `max_tokens_total: 40` are used") as caught:
            write_answers(spec(there.url, max_tokens_total=limit), PROMPTS, how, tmp_path)
        kept = list(read_answers(answers_file(tmp_path, spec(there.url), how)))
        # A request may take 13 or 14, and takes 6: with 28 used, no further one has room.
        assert [sum(one.used.values()) for one in kept if one.used] == [6] * 5
        assert caught.value.exit_code == 7
        assert "Raise it to continue. 5 answers are kept" in str(caught.value)
        assert isinstance(there, Speaker)
        assert len(there.asked) == 5
        # It holds for all runs together.
        with pytest.raises(ResourceError):
            write_answers(spec(there.url, max_tokens_total=limit), PROMPTS, how, tmp_path)
        assert len(there.asked) == 5
        assert len(answers(spec(there.url, max_tokens_total=400), PROMPTS, how, tmp_path)) == len(PROMPTS)


def test_what_is_asked_stands_in_the_request(tmp_path: Path):
    how, talk = (
        GenerationSettings(5, DRAWN, ("\n", "END"), samples=2),
        [{"role": "system", "content": "be brief"}],
    )
    with listening(Scripted(200, chat("yes"))) as there:
        answers(spec(there.url, key_env="A_KEY"), ["hi", talk], how, tmp_path)
        assert isinstance(there, Scripted)
        paths, bodies = {path for path, _ in there.heads}, [json.loads(body) for body in there.bodies]
        assert {head["Authorization"] for _, head in there.heads} == {f"Bearer {SECRET}"}
    assert paths == {"/v1/chat/completions"}
    assert len({body.pop("seed") for body in bodies}) == 4
    said = {"model": "scripted", "temperature": 0.7, "top_p": 0.9, "max_tokens": 5, "stop": ["\n", "END"]}
    for messages in ([{"role": "user", "content": "hi"}], talk):
        assert bodies.count({**said, "messages": messages}) == 2
    with listening(Scripted(200, {"choices": [{"text": "a", "finish_reason": "length"}]})) as there:
        answers(spec(there.url, api="completions"), ["hi"], GenerationSettings(5), tmp_path)
        assert isinstance(there, Scripted)
        (head,), (body,) = there.heads, there.bodies
        assert "Authorization" not in head[1]
        assert json.loads(body) == {"model": "scripted", "temperature": 0, "prompt": "hi", "max_tokens": 5}
        with pytest.raises(DataError, match="this is a conversation"):
            write_answers(spec(there.url, api="completions"), [talk], GenerationSettings(5), tmp_path)
        with pytest.raises(DataError, match="answers prompts but cannot write them"):
            write_answers(spec(there.url), [EMPTY_USER_TURN], GenerationSettings(5), tmp_path)
    with pytest.raises(ModelError, match="has no `top_k`"):
        write_answers(spec(there.url), ["hi"], GenerationSettings(5, Sampling(1.0, top_k=3)), tmp_path)


def test_who_has_another_name_for_the_limit_is_asked_by_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_KEY", "max")

    class Newer(Speaker):
        def respond(self, handler: Any, body: bytes) -> None:
            if b'"max_tokens"' in body:
                handler.send(400, b'{"error": {"message": "Use \'max_completion_tokens\' instead."}}')
            else:
                super().respond(handler, body.replace(b"max_completion_tokens", b"max_tokens"))

    with listening(Newer()) as there:
        assert (
            len(answers(spec(there.url, key_env="A_KEY"), PROMPTS[:9], GenerationSettings(8), tmp_path)) == 9
        )


@pytest.mark.parametrize(
    ("body", "text", "ended"),
    [
        (chat("yes"), "yes", "end"),
        (chat("yes", "length"), "yes", "length"),
        (chat(None, "length"), "", "length"),
        (chat("it END", "stop"), "it ", "stop"),
        ({"choices": [{**chat("it ")["choices"][0], "stop_reason": "END"}]}, "it ", "stop"),
        (chat(None, "content_filter"), "", "filter"),
        (chat(None, refusal="I will not"), "", "filter"),
        (chat("4", reasoning_content="2 and 2"), "<think>\n2 and 2\n</think>\n\n4", "end"),
        (chat(f"\ud55c {SECRET}\x1b"), "\ud55c ***\x1b", "key"),
        (chat(f"it END {SECRET}"), "it ", "stop"),
    ],
)
def test_what_a_server_says_is_an_answer(body: object, text: str, ended: str, tmp_path: Path):
    answer = one_answer(tmp_path, body, ("END",), key_env="A_KEY")
    assert (answer.text, answer.ended, answer.used) == (text, ended, None)
    assert (answer.key, answer.prompt, answer.tokens) == (answer_key("hi", 0), "hi", [])


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"choices": []},
        {"choices": ["yes"]},
        chat(None),
        chat(["yes"]),
        chat("yes", None),
        chat("yes", "tool_calls"),
        {"error": {"message": "out of order"}},
        b'{"choices": [{"message": {"content": "\\ud800"}, "finish_reason": "stop"}]}',
        b"[" * 5000,
    ],
)
def test_what_is_no_answer_is_not_taken_for_one(body: object, tmp_path: Path):
    with pytest.raises(ModelError, match="server-silent"):
        one_answer(tmp_path, body)
    assert next(tmp_path.glob("*.jsonl")).read_bytes() == b""


def test_the_key_is_told_to_nobody_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    caplog.set_level(logging.DEBUG)
    elsewhere = Scripted(200, chat("yes"))
    said = {"error": {"message": f"{SECRET} is no key"}, "detail": SECRET}
    told = []
    with listening(elsewhere):
        for script in (
            Scripted(200, chat(f"your key is {SECRET}")),
            Scripted(200, said),
            Scripted(200, chat(SECRET, SECRET)),
            Scripted(401, said),
            Scripted(500, said),
            Scripted(307, said, Location=elsewhere.url),
            Scripted(400, SECRET),
        ):
            with listening(script) as there:
                try:
                    write_answers(
                        spec(there.url, key_env="A_KEY", patience_s=0.1),
                        ["hi"],
                        GenerationSettings(8),
                        tmp_path,
                    )
                except CompressError as error:
                    told.append("".join(traceback.format_exception(error)) + repr(error))
                assert SECRET in script.heads[0][1]["Authorization"]
        for line in (f"{SECRET} 200", f"HTTP/1.1 500 {SECRET}", f"HTTP/1.1 200 OK\r\nX: {SECRET}"):
            with rude(f"{line}\r\n\r\n".encode()) as url, pytest.raises(ModelError) as caught:
                write_answers(
                    spec(url, key_env="A_KEY", patience_s=0.1), ["hi"], GenerationSettings(8), tmp_path
                )
            told.append("".join(traceback.format_exception(caught.value)))
    assert len(told) == 9
    assert elsewhere.heads == []
    kept = [file.read_text() for file in tmp_path.iterdir()]
    names = [file.name for file in tmp_path.iterdir()]
    assert any("***" in text for text in kept)
    assert caplog.text
    for text in (
        *told,
        *kept,
        *names,
        caplog.text,
        *capfd.readouterr(),
        repr(spec("https://a", key_env="A_KEY")),
    ):
        assert SECRET not in text


@pytest.mark.parametrize("key", ["x", "none", "EMPTY"])
def test_a_key_that_is_a_word_stays_in_answers_and_goes_from_errors(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("A_KEY", key)
    said = f"The next one is EMPTY, and none else; {key}"
    answer = one_answer(tmp_path, chat(said), key_env="A_KEY")
    assert (answer.text, answer.ended) == (said, "end")
    with (
        listening(Scripted(400, {"detail": f"bad: {key}"})) as there,
        pytest.raises(ModelError, match=r"bad: \*\*\*"),
    ):
        answers(spec(there.url, key_env="A_KEY"), ["ho"], GenerationSettings(8), tmp_path)


@pytest.mark.skipif(which("openssl") is None, reason="nothing here makes certificates")
def test_who_shows_a_certificate_of_its_own_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own, key = tmp_path / "own.pem", tmp_path / "key.pem"
    made = (
        f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {key} -out {own} -days 1"
    )
    named = ["-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *made.split(), *named], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own, key)
    server = Scripted(200, chat("yes"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with listening(server) as there:
        asked = spec(there.url.replace("http:", "HTTPS:"), key_env="A_KEY")
        with pytest.raises(ModelError, match="server-certificate"):
            answers(asked, ["hi"], GenerationSettings(8), tmp_path / "answers")
        assert server.heads == []
        monkeypatch.setenv("SSL_CERT_FILE", str(own))
        (answer,) = answers(asked, ["hi"], GenerationSettings(8), tmp_path / "answers").values()
        assert answer.text == "yes"


def test_a_key_that_cannot_be_one_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with listening(Speaker()) as there:
        for value, words in ((None, "A_KEY is not set"), ("", "is not set"), (f"{SECRET}\n", "line breaks")):
            if value is None:
                monkeypatch.delenv("A_KEY")
            else:
                monkeypatch.setenv("A_KEY", value)
            with pytest.raises(ModelError, match=words) as caught:
                write_answers(spec(there.url, key_env="A_KEY"), ["hi"], GenerationSettings(8), tmp_path)
            assert SECRET not in str(caught.value)
        assert isinstance(there, Speaker)
        assert there.asked == []


def test_no_proxy_reads_what_is_not_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with listening(Scripted(200, chat("no"))) as proxy, listening(Scripted(200, chat("yes"))) as there:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        (answer,) = answers(
            spec(there.url, key_env="A_KEY"), ["hi"], GenerationSettings(8), tmp_path
        ).values()
        assert answer.text == "yes"


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v1/",
        "http://localhost:8000/v1",
        "http://127.0.0.1:8000",
        "http://[::1]:8000/v1",
        "http://10.1.2.3/v1",
        "http://192.168.0.7:11434/v1",
        "http://[fd00::1]/v1",
    ],
)
def test_places_that_may_be_asked(url: str):
    assert spec(url).url == url.rstrip("/")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"url": "ftp://a/v1"}, "URL of a server"),
        ({"url": "file:///etc/passwd"}, "URL of a server"),
        ({"url": "https://"}, "URL of a server"),
        ({"url": "https://a:SECRET/v1"}, "URL of a server"),
        ({"url": "https://a/v1\r\nX: SECRET"}, "URL of a server"),
        ({"url": "https://me:SECRET@a/v1"}, "without user names, passwords"),
        ({"url": "https://a/v1?key=SECRET"}, "without user names, passwords"),
        ({"url": "https://a/v1?"}, "without user names, passwords"),
        ({"url": "https://a/v1#"}, "without user names, passwords"),
        ({"url": "HTTP://api.example.com/v1"}, "http is not encrypted"),
        ({"url": "http://api.example.com/v1"}, "http is not encrypted"),
        ({"url": "http://8.8.8.8/v1"}, "http is not encrypted"),
        ({"url": "http://[::ffff:8.8.8.8]/v1"}, "http is not encrypted"),
        ({"url": "http://localhost.example.com/v1"}, "http is not encrypted"),
        ({"key_env": "sk-SECRET"}, "name of an environment variable"),
        ({"key": "SECRET"}, "Extra inputs"),
        ({"concurrency": 0}, "greater than or equal to 1"),
        ({"timeout_s": 0}, "greater than 0"),
        ({"api": "SECRET"}, "'chat' or 'completions'"),
    ],
)
def test_what_makes_no_sense_is_refused_and_not_repeated(keys: dict[str, Any], words: str):
    with pytest.raises(ValidationError, match=words) as caught:
        spec(**{"url": "https://a/v1", **keys})
    assert "SECRET" not in str(caught.value)


def test_answers_are_known_by_the_model_and_not_by_how_fast_it_is_asked(tmp_path: Path):
    one = spec("https://a/v1")
    same = spec("HTTPS://a/v1/", concurrency=9, key_env="A_KEY", max_tokens_total=5, timeout_s=1)
    others = [spec("https://b/v1"), spec("https://a/v1", model="x"), spec("https://a/v1", api="completions")]
    files = [answers_file(tmp_path, each, GenerationSettings(8)) for each in (one, *others)]
    assert answers_file(tmp_path, same, GenerationSettings(8)) == files[0]
    assert len(set(files)) == 4
    assert spec("http://api.example.com/v1", plain_http=True).plain_http
