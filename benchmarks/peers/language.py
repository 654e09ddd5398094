"""One file of a language model, run by the tool that made it, in a process of its own: it answers lines of JSON.

    python benchmarks/peers/language.py KIND FILE

`{"read": [...], "write": [...]}`: the prompt is read and the tokens are written behind it, as greedy search would, with
the likeliest word looked for each time -> `read_s`, `write_s` (the median of a token) and `waited`, the share of
the time in which the process waited for a core. `{"score": [[...], ...]}`: windows of token ids -> `nats`, of each one
minus the log-probability of all but its first token. One thread. What it prints before the first answer is no answer.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
ROOM = 512
CHUNK = 64


class Served(Protocol):
    """A model that is run."""

    def start(self) -> None:
        """Forget what was read."""

    def step(self, tokens: Sequence[int]) -> Logits:
        """Read tokens behind those before them -> the logits (words,) of the next one."""

    def all_logits(self, tokens: Sequence[int]) -> Logits:
        """Of a text: the logits (tokens, words) of what follows each."""


class Ours:
    """A decoder of this project, as its bundle runs it."""

    def __init__(self, file: str) -> None:
        from compress.runtimes.decoding import Decoder
        from compress.runtimes.runner import CachedSession, open_session

        self.session = CachedSession(open_session(file))
        self.decoder = Decoder(self.session, ROOM)
        self.begun = False

    def start(self) -> None:
        self.begun = False

    def step(self, tokens: Sequence[int]) -> Logits:
        made = self.decoder.read([tokens]) if self.begun else self.decoder.start([tokens])
        self.begun = True
        return np.asarray(made[0])

    def all_logits(self, tokens: Sequence[int]) -> Logits:
        ids = np.array([tokens])
        return np.asarray(self.session({"input_ids": ids, "attention_mask": np.ones_like(ids)})[0])


class LlamaCpp:
    """A GGUF file, by llama.cpp itself: a cache of 16 bits and flash attention where it thinks best."""

    def __init__(self, file: str) -> None:
        import llama_cpp

        self.api = llama_cpp
        llama_cpp.llama_backend_init()
        # It says a lot about every file that it loads.
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        self.model = llama_cpp.llama_model_load_from_file(
            file.encode(), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = ROOM
        settings.n_threads = settings.n_threads_batch = 1
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.words = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(ROOM, 0, 1)
        self.length = 0

    def start(self) -> None:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        self.length = 0

    def step(self, tokens: Sequence[int]) -> Logits:
        self._decode(tokens, every=False)
        return np.ctypeslib.as_array(self.api.llama_get_logits_ith(self.context, -1), (self.words,))

    def all_logits(self, tokens: Sequence[int]) -> Logits:
        self.start()
        self._decode(tokens, every=True)
        return np.ctypeslib.as_array(self.api.llama_get_logits(self.context), (len(tokens), self.words))

    def _decode(self, tokens: Sequence[int], *, every: bool) -> None:
        batch = self.batch
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place] = token, self.length + place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = every or place == len(tokens) - 1
        if self.api.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")
        self.length += len(tokens)


class Genai:
    """A folder of onnxruntime-genai, by its own runtime."""

    def __init__(self, file: str) -> None:
        import onnxruntime_genai

        self.api = onnxruntime_genai
        config = Path(file, "genai_config.json")
        said = json.loads(config.read_text())
        options = said["model"]["decoder"]["session_options"]
        options |= {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
        config.write_text(json.dumps(said, indent=1))
        self.model = onnxruntime_genai.Model(file)
        self.start()

    def start(self) -> None:
        settings = self.api.GeneratorParams(self.model)
        settings.set_search_options(max_length=ROOM, batch_size=1)
        self.generator = self.api.Generator(self.model, settings)

    def step(self, tokens: Sequence[int]) -> Logits:
        self.generator.append_tokens(np.array([tokens], np.int32))
        return np.asarray(self.generator.get_logits()).reshape(-1)

    def all_logits(self, tokens: Sequence[int]) -> Logits:
        self.start()
        self.generator.append_tokens(np.array([tokens], np.int32))
        return np.asarray(self.generator.get_output("logits"), np.float32)[0]


class Torch:
    """A folder of transformers, by torch; `FILE` may end in `:bfloat16`."""

    def __init__(self, file: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        folder, _, kind = file.partition(":")
        self.torch = torch
        torch.set_grad_enabled(False)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, kind or "float32"))
        self.model.eval()
        self.start()

    def start(self) -> None:
        from transformers import DynamicCache

        self.cache = DynamicCache(config=self.model.config)

    def step(self, tokens: Sequence[int]) -> Logits:
        ids = self.torch.tensor([tokens])
        found = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return np.asarray(found.logits[0, -1].float().numpy())

    def all_logits(self, tokens: Sequence[int]) -> Logits:
        found = self.model(self.torch.tensor([tokens]), use_cache=False)
        return np.asarray(found.logits[0].float().numpy())


class OnnxRuntime:
    """A graph as torch exports it, by onnxruntime: what it has read stands in its outputs, and goes in again."""

    def __init__(self, file: str) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.api = onnxruntime
        self.session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
        self.past = [one for one in self.session.get_inputs() if one.name.startswith("past")]
        self.start()

    def start(self) -> None:
        empty = [np.zeros((1, one.shape[1], 0, one.shape[3]), np.float32) for one in self.past]
        self.cache = [self.api.OrtValue.ortvalue_from_numpy(one) for one in empty]
        self.length = 0

    def step(self, tokens: Sequence[int]) -> Logits:
        return self._read(tokens)[-1]

    def all_logits(self, tokens: Sequence[int]) -> Logits:
        self.start()
        return self._read(tokens)

    def _read(self, tokens: Sequence[int]) -> Logits:
        self.length += len(tokens)
        bound = self.session.io_binding()
        bound.bind_cpu_input("input_ids", np.array([tokens]))
        bound.bind_cpu_input("attention_mask", np.ones((1, self.length), np.int64))
        for one, held in zip(self.past, self.cache, strict=True):
            bound.bind_ortvalue_input(one.name, held)
        for one in self.session.get_outputs():
            bound.bind_output(one.name)
        self.session.run_with_iobinding(bound)
        logits, *self.cache = bound.get_outputs()
        return np.asarray(logits.numpy()[0])


KINDS: dict[str, Any] = {
    "ours": Ours,
    "llama.cpp": LlamaCpp,
    "genai": Genai,
    "onnxruntime": OnnxRuntime,
    "torch": Torch,
}


def waited_ns() -> int:
    """How long the threads of this process have waited for a core so far; 0 where the kernel does not say."""
    total = 0
    for thread in Path("/proc/self/task").iterdir():
        try:
            total += int((thread / "schedstat").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return total


def turn(model: Served, prompt: Sequence[int], written: Sequence[int]) -> dict[str, float]:
    """Read and write once, after a little untimed of both."""
    clock = time.perf_counter_ns
    model.start()
    model.step(prompt[:16])
    for token in written[:4]:
        model.step([token]).argmax()
    model.start()
    begin, waited = clock(), waited_ns()
    model.step(prompt).argmax()
    read, each = clock() - begin, []
    for token in written:
        start = clock()
        model.step([token]).argmax()
        each.append(clock() - start)
    waited = waited_ns() - waited
    return {
        "read_s": read / 1e9,
        "write_s": float(np.median(each)) / 1e9,
        "waited": waited / (clock() - begin),
    }


def nats_of(model: Served, window: Sequence[int]) -> float:
    """Minus the log-probability of all tokens of a window but the first."""
    logits, wanted, total = model.all_logits(window), np.array(window[1:]), 0.0
    for start in range(0, len(wanted), CHUNK):
        ids = wanted[start : start + CHUNK]
        part = logits[start : start + len(ids)].astype(np.float64)
        part -= part.max(axis=1, keepdims=True)
        total += float((np.log(np.exp(part).sum(axis=1)) - part[np.arange(len(ids)), ids]).sum())
    return total


def main() -> None:
    """Load the file, say so, and answer until there are no more lines."""
    # Libraries print to the standard output too: answers go to a copy of it.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    model: Served = KINDS[sys.argv[1]](sys.argv[2])
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "score" in asked:
            told: dict[str, Any] = {"nats": [nats_of(model, window) for window in asked["score"]]}
        else:
            told = turn(model, asked["read"], asked["write"])
        print(json.dumps(told), file=answers, flush=True)
    # Some of these libraries crash when they are taken down.
    os._exit(0)


if __name__ == "__main__":
    main()
