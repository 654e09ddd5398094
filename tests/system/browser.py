"""Headless Chromium by the W3C WebDriver protocol, spoken to its chromedriver, and folders served on this machine."""

from __future__ import annotations

import functools
import http.server
import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key under which WebDriver names an element."""
PATIENCE_S = 120


class Browser:
    """One window."""

    def __init__(self, base: str) -> None:
        self.base = base

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.base + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from error

    def open(self, address: str) -> None:
        self.call("POST", "/url", {"url": address})

    def find(self, selector: str) -> str:
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[ELEMENT])

    def type(self, selector: str, text: str) -> None:
        """Type into a field that is emptied first; for a file input, choose a file."""
        element = self.find(selector)
        if self.run("return arguments[0].type", {ELEMENT: element}) != "file":
            self.call("POST", f"/element/{element}/clear", {})
        self.call("POST", f"/element/{element}/value", {"text": text})

    def click(self, selector: str) -> None:
        self.call("POST", f"/element/{self.find(selector)}/click", {})

    def run(self, script: str, *arguments: Any) -> Any:
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        """The text of an element, shown or not."""
        return str(self.run(f"return document.querySelector({json.dumps(selector)}).textContent"))

    def wait(self, selector: str, begins: str) -> str:
        """The text of an element once it begins so; an error that the page shows ends the waiting."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            text = self.text(selector)
            if text.startswith(begins):
                return text
            assert not self.text("#state").startswith(("failed", "The page cannot")), self.text("#state")
            time.sleep(0.1)
        raise AssertionError(f"{selector} says {self.text(selector)!r}, not {begins!r}")

    def errors(self) -> list[str]:
        """What the console holds of errors; a broken Content-Security-Policy is one."""
        entries = self.call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def picture(self, file: Path) -> None:
        file.write_bytes(b64decode(self.call("GET", "/screenshot")))


@contextmanager
def browser(folder: Path, width: int = 420, height: int = 900) -> Iterator[Browser]:
    """A window of its own profile; everything ends with the block."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    window = None
    try:
        assert driver.stdout is not None
        port = next(line.split()[-1].rstrip(".") for line in driver.stdout if "successfully on port" in line)
        options = {
            "args": [*FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}"],
            "mobileEmulation": {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2}},
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        window = Browser(f"http://127.0.0.1:{port}/session")
        session = window.call("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        window.base += f"/{session['sessionId']}"
        yield window
    finally:
        if window is not None:
            window.call("DELETE", "")
        driver.terminate()
        driver.wait()
        if driver.stdout:
            driver.stdout.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address under which a folder is served, as `python -m http.server` does it."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
