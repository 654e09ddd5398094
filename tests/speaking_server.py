"""A server that speaks OpenAI's protocol with a scripted model, and a proxy before it that does what networks do."""

from __future__ import annotations

import http.client
import json
import select
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Listening(ThreadingHTTPServer):
    """On loopback; every request has a thread."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def respond(self, handler: _Handler, body: bytes) -> None:
        raise NotImplementedError

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Those who asked may have gone."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Listening

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.respond(self, body)

    def do_GET(self) -> None:
        self.server.respond(self, b"")

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@contextmanager
def listening(server: Listening) -> Iterator[Listening]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def prompt_in(asked: dict[str, Any]) -> str:
    return asked["prompt"] if "prompt" in asked else asked["messages"][-1]["content"]


def text_of(prompt: str, seed: int | None) -> str:
    """What the scripted model says: other words for another seed."""
    return f"{prompt}, {zlib.crc32(f'{prompt} {seed}'.encode()) % 1000} times"


class Speaker(Listening):
    """The scripted model. `asked`: the requests. `most`: how many there were at once."""

    def __init__(self, seconds: float = 0.0, key: str | None = None, port: int = 0) -> None:
        super().__init__(port)
        self.seconds, self.key = seconds, key
        self.asked: list[dict[str, Any]] = []
        self.now = self.most = 0

    def respond(self, handler: _Handler, body: bytes) -> None:
        asked = json.loads(body)
        with self.lock:
            self.asked.append(asked)
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        with self.lock:
            self.now -= 1
        if self.key and handler.headers["Authorization"] != f"Bearer {self.key}":
            handler.send(401, b'{"error": {"message": "who are you?"}}')
            return
        handler.send(200, json.dumps(self.said(handler.path, asked)).encode())

    def said(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        words = text_of(prompt_in(asked), asked.get("seed")).split(" ")
        most = asked["max_tokens"]
        text, reason = " ".join(words[:most]), "length" if len(words) > most else "stop"
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        if path == "/v1/chat/completions":
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        prompt = len(prompt_in(asked).split(" "))
        answer = min(len(words), most)
        usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
        return {"id": "x", "object": "text", "model": asked["model"], "choices": [choice], "usage": usage}


class Scripted(Listening):
    """Says the same to everybody. `heads`: of the requests, with the paths."""

    def __init__(self, status: int, body: object, **headers: str) -> None:
        super().__init__()
        self.status, self.headers = status, headers
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.heads: list[tuple[str, dict[str, str]]] = []
        self.bodies: list[bytes] = []

    def respond(self, handler: _Handler, body: bytes) -> None:
        with self.lock:
            self.heads.append((handler.path, dict(handler.headers)))
            self.bodies.append(body)
        handler.send(self.status, self.body, **self.headers)


def _has_gone(handler: _Handler) -> bool:
    """Whether who asked has closed the connection."""
    readable, _, _ = select.select([handler.connection], [], [], 0)
    return bool(readable) and not handler.connection.recv(1, socket.MSG_PEEK)


FAULTS = ("busy", "broken", "page", "slow", "cut", "half", "closed", "late", "twice")


class Proxy(Listening):
    """Hands requests on to a server, with the fault that `fault` names for the number of each.

    `delivered`: how often each prompt, with its seed, got its whole answer while somebody waited for it.
    """

    def __init__(self, behind: Listening, fault: Callable[[int], str | None], slow: float = 1.0) -> None:
        super().__init__()
        self.behind, self.fault, self.slow = behind, fault, slow
        self.delivered: Counter[tuple[str, int | None]] = Counter()
        self.faults: Counter[str | None] = Counter()

    def respond(self, handler: _Handler, body: bytes) -> None:
        asked = json.loads(body)
        with self.lock:
            fault = self.fault(self.faults.total())
            self.faults[fault] += 1
        handler.close_connection = True
        if fault == "busy":
            handler.send(429, b'{"error": {"message": "too fast"}}', Retry_After="0.02")
        elif fault == "broken":
            handler.send(500, b"oh no")
        elif fault == "page":
            handler.send(200, b"<html>the server is being repaired</html>")
        elif fault == "closed":
            pass
        else:
            if fault == "twice":
                self._behind(handler, body)
            found = self._behind(handler, body)
            if fault == "cut":
                handler.send(200, found[: len(found) // 2], Content_Length=str(len(found)))
            elif fault == "half":
                handler.send_response(200)
                handler.send_header("Connection", "close")
                handler.end_headers()
                handler.wfile.write(found[: len(found) // 2])
            else:
                time.sleep({"late": 0.03, "slow": self.slow}.get(fault or "", 0.0))
                # Counted first: whoever has the answer may look.
                if not _has_gone(handler):
                    with self.lock:
                        self.delivered[prompt_in(asked), asked.get("seed")] += 1
                handler.send(200, found)
                if fault == "twice":
                    handler.send(200, found)

    def _behind(self, handler: _Handler, body: bytes) -> bytes:
        connection = http.client.HTTPConnection(*self.behind.server_address[:2])
        headers = {"Content-Type": "application/json"}
        if "Authorization" in handler.headers:
            headers["Authorization"] = handler.headers["Authorization"]
        connection.request("POST", handler.path, body, headers)
        found = connection.getresponse().read()
        connection.close()
        return found
