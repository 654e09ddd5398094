"""A language model in 4 bits by this project and by its peers: the same FP32 weights, tokens and clock.

    python benchmarks/llm_versus_peers.py --peers SITE [--model FOLDER] [--part files|quality|speed|report] ...

Without --model it is the packaged SmolLM2-135M; FOLDER holds a decoder as this project leaves it (config.json,
model.safetensors, tokenizer.json, task.json), such as the artifact of a fine-tuned one. SITE holds the peers:

    CMAKE_ARGS=-DGGML_NATIVE=ON pip install --target SITE --no-deps llama-cpp-python==0.3.36 diskcache \
        onnxruntime-genai==0.18.0

Without --part all of them, one after the other. `files` writes what every tool makes (half an hour); `quality` scores
each on the same 50,000 tokens of the test split (an hour); `speed` times all in turns, each in a process of its own,
one thread, a prompt of 128 tokens and 32 written ones a turn (under 10 minutes; nothing else should run then);
`report` writes reports/benchmarks/llm_versus_peers.json and .md of what there is, as each of them does at its end.
What was made and scored is kept in the cache, and a run that was stopped goes on. Exits 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from llm_int4 import PROFILE, WINDOW, batch_of, windows
from running import make_one, resolve
from tokenizers import Tokenizer
from transformers import PreTrainedModel
from writing import write_rows

from compress.core.artifacts import ONNX_MODEL, TASK, TOKENIZER, TORCH_WEIGHTS
from compress.core.disk.files import sha256_file
from compress.core.units import megabytes
from compress.data.kinds import TEXTS
from compress.lowering.decoder.graph import decoder_graph
from compress.lowering.decoder.layout import layout_of
from compress.lowering.files import save_onnx
from compress.lowering.gguf.file import write_gguf
from compress.measuring.statistics import bootstrap_medians, mean_interval
from compress.models.io.checkpoints import load_model
from compress.passes.quantize.weight_only.methods import quantize_weights
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.profile.load import load_profile
from compress.store.cache import Cache
from compress.tasks.causal_lm.data import load

CHILD = Path(__file__).parent / "peers" / "language.py"
TOKENS, CALIBRATION = 50_000, 16_384
PROMPT, WRITTEN = 128, 32
CLEAN = 0.02
"""A turn was disturbed where its process waited for a core for a larger share of it."""
FEWEST = 8
"""Undisturbed rounds that a ratio needs; with fewer all count, and the row says so."""
NAME = "llm_versus_peers"
OURS, LLAMA, GENAI, TORCH, PLAIN = "compress", "llama.cpp", "onnxruntime-genai", "torch", "onnxruntime"
FLOAT, DEFAULT = (OURS, "FP32"), (OURS, "INT4 gptq b256 zero points")
PURE, Q4_1, Q4_K = (LLAMA, "Q4_0 pure"), (LLAMA, "Q4_1"), (LLAMA, "Q4_K_M")
Key = tuple[str, str]
Turns = list[dict[str, Any]]


@dataclass(frozen=True)
class Made:
    """Where what the tools make lies, what they make it of, and where the peers are installed."""

    kept: Path
    model: Path
    site: Path

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """A folder that `make` fills, or filled once."""
        folder = self.kept / name
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=self.kept, prefix="making-") as work:
                out = Path(work) / "out"
                out.mkdir()
                started = time.perf_counter()
                make(out)
                print(f"{name}: made in {time.perf_counter() - started:.0f} s", flush=True)
                out.rename(folder)
        return folder

    def python(self, *arguments: str) -> list[str]:
        """A command in which the peers can be imported."""
        large = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"
        return ["env", f"PYTHONPATH={self.site}", large, sys.executable, *arguments]

    def loaded(self) -> PreTrainedModel:
        """The float model."""
        model = load_model(self.model)
        assert isinstance(model, PreTrainedModel)
        return model

    def float_onnx(self) -> Path:
        """Our FP32 file."""

        def lowered(out: Path) -> None:
            model = self.loaded()
            save_onnx(decoder_graph(layout_of(model.config), model.state_dict()), out)

        return self.once("fp32", lowered) / ONNX_MODEL

    def float_torch(self) -> Path:
        """The folder as transformers reads it."""

        def saved(out: Path) -> None:
            self.loaded().save_pretrained(out)
            (out / TOKENIZER).write_bytes((self.model / TOKENIZER).read_bytes())
            (out / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')

        return self.once("torch", saved)

    def float_gguf(self) -> Path:
        """The weights in 16 bits, which llama.cpp quantizes."""

        def written(out: Path) -> None:
            tokenizer, task = (json.loads((self.model / name).read_text()) for name in (TOKENIZER, TASK))
            write_gguf(self.loaded(), tokenizer, task, "f16", out / "model.gguf", "benchmark")

        return self.once("gguf-f16", written) / "model.gguf"

    def ours(self, keys: Mapping[str, Any]) -> Path:
        """Our file by the keys of `quantize`."""
        spec = WeightOnlySpec.model_validate({"bits": 4, **keys})

        def quantized(out: Path) -> None:
            source = self.float_onnx()
            model, learnt = ir.load(source), texts(self.model, "train", CALIBRATION)
            quantize_weights(model, source, spec, lambda: map(batch_of, map(np.array, learnt)), out)
            save_onnx(model, out)

        name = "-".join(f"{key}={value}" for key, value in sorted(keys.items()))
        return self.once(f"ours-{name}".replace("*", "any"), quantized) / ONNX_MODEL

    def llama_cpp(self, kind: str, *, pure: bool = False) -> Path:
        """What llama.cpp makes of the 16-bit file."""
        source = self.float_gguf()
        code = (
            "import ctypes, sys, llama_cpp as l; p = l.llama_model_quantize_default_params(); "
            f"p.ftype = l.LLAMA_FTYPE_MOSTLY_{kind}; p.pure = {pure}; p.nthread = 1; "
            "sys.exit(l.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(p)))"
        )

        def quantized(out: Path) -> None:
            called(self.python("-c", code, str(source), str(out / "model.gguf")))

        return self.once(f"gguf-{kind}{'-pure' if pure else ''}", quantized) / "model.gguf"

    def plain(self, bits: int) -> Path:
        """What torch exports, with a cache, and onnxruntime's own tool rounds to nearest in blocks of 32."""
        code = Path(__file__).parent / "peers" / "plain_export.py"
        name, source = ("plain-fp32", self.float_torch()) if bits == 32 else ("plain-int4", self.plain(32))

        def exported(out: Path) -> None:
            called([sys.executable, "-P", str(code), str(source), str(out / ONNX_MODEL)])

        return self.once(name, exported) / ONNX_MODEL

    def genai(self, precision: str, *options: str) -> Path:
        """What the builder of onnxruntime-genai makes of the folder."""
        source = self.float_torch()
        extra = ["--extra_options", *options] if options else []

        def built(out: Path) -> None:
            builder = ["-m", "onnxruntime_genai.models.builder"]
            called(
                self.python(*builder, "-i", str(source), "-o", str(out), "-p", precision, "-e", "cpu", *extra)
            )

        return self.once("-".join(("genai", precision, *options)).replace("/", "+"), built)


@dataclass(frozen=True)
class Entry:
    """A tool in one setting: what runs its file, and what makes it."""

    tool: str
    setting: str
    kind: str
    make: Callable[[Made], Path]
    suffix: str = ""
    """Behind the file when it is run."""
    share: float = 1.0
    """Of the file that is held."""

    @property
    def key(self) -> Key:
        """What it is found by."""
        return self.tool, self.setting


def entries() -> list[Entry]:
    """All that is compared."""
    around, zeros = {"symmetric": True}, {"symmetric": False}
    recipes: dict[str, dict[str, Any]] = {
        "INT4 gptq b256 zero points": {"method": "gptq", "block_size": 256, **zeros},
        "INT4 gptq b128 zero points": {"method": "gptq", "block_size": 128, **zeros},
        "INT4 gptq b64 zero points": {"method": "gptq", "block_size": 64, **zeros},
        "INT4 gptq b64 symmetric": {"method": "gptq", "block_size": 64, **around},
        "INT4 gptq b32 zero points": {"method": "gptq", "block_size": 32, **zeros},
        "INT4 gptq b32 symmetric": {"method": "gptq", "block_size": 32, **around},
        "INT4 hqq b64 zero points": {"method": "hqq", "block_size": 64, **zeros},
        "INT4 rtn b32 symmetric": {"method": "rtn", "block_size": 32, **around},
        "INT4 gptq b64 zero points, words in 8 bits": {
            "method": "gptq",
            "block_size": 64,
            **zeros,
            "embeddings": 8,
            "eight_bits": ("head",),
        },
    }
    sharing = ("accuracy_level=4", "shared_embeddings=true", "op_types_to_quantize=MatMul/Gather")

    def llama(kind: str, *, pure: bool = False) -> Entry:
        setting = f"{kind}{' pure' if pure else ''}"
        return Entry(LLAMA, setting, "llama.cpp", lambda made: made.llama_cpp(kind, pure=pure))

    return [
        Entry(*FLOAT, "ours", Made.float_onnx),
        *(Entry(OURS, setting, "ours", partial(Made.ours, keys=keys)) for setting, keys in recipes.items()),
        Entry(LLAMA, "F16", "llama.cpp", Made.float_gguf),
        llama("Q4_0", pure=True),
        *map(llama, ("Q4_0", "Q4_1", "Q4_K_M", "Q8_0")),
        Entry(GENAI, "FP32", "genai", lambda made: made.genai("fp32")),
        Entry(GENAI, "INT4 as it is", "genai", lambda made: made.genai("int4")),
        *(
            Entry(
                GENAI,
                f"INT4 b{size}, shared",
                "genai",
                lambda made, size=size: made.genai("int4", f"block_size={size}", *sharing),
            )
            for size in (32, 64)
        ),
        Entry(PLAIN, "FP32, torch's graph", "onnxruntime", lambda made: made.plain(32)),
        Entry(PLAIN, "INT4 b32, torch's graph", "onnxruntime", lambda made: made.plain(4)),
        Entry(TORCH, "FP32", "torch", Made.float_torch),
        Entry(TORCH, "BF16", "torch", Made.float_torch, ":bfloat16", 0.5),
    ]


class Child:
    """A file that is served by its tool, in a process of its own."""

    def __init__(self, entry: Entry, made: Made) -> None:
        file = f"{entry.make(made)}{entry.suffix}"
        self.process = subprocess.Popen(
            made.python("-P", "-u", str(CHILD), entry.kind, file),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def ask(self, **question: Any) -> dict[str, Any]:
        """Its answer.

        Raises:
            RuntimeError: it has ended.
        """
        assert self.process.stdin is not None
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"it ended with {self.process.wait()}")
        told: dict[str, Any] = json.loads(line)
        return told


def main() -> int:
    """Make, score, time and write down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, required=True, metavar="SITE")
    parser.add_argument("--model", type=Path, metavar="FOLDER")
    parser.add_argument("--part", choices=("files", "quality", "speed", "report"))
    parser.add_argument("--only", nargs="+", default=[""], help="entries with one of these words; no bars")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="fewer are marked in the report")
    parser.add_argument("--minutes", type=float, default=7, help="how long all are timed in turns")
    options = parser.parse_args()
    made = made_of(options.model, options.peers)
    chosen = [entry for entry in entries() if any(word in " ".join(entry.key) for word in options.only)]
    reasons = files(chosen, made)
    ready = [entry for entry in chosen if entry.key not in reasons]
    if options.part in (None, "quality"):
        reasons |= quality(ready, made, options.tokens)
    if options.part in (None, "speed"):
        speed([entry for entry in ready if entry.key not in reasons], made, options.minutes)
    rows, held = report(chosen, made, options.tokens, reasons)
    name = NAME if options.model is None else f"{NAME}.{made.model.name[:16]}"
    write_rows(
        name, rows, note=note(made.model if options.model else None, options.tokens, made, held), script=NAME
    )
    return 0 if options.only != [""] or all(good for _, good in held) else 1


def made_of(model: Path | None, site: Path) -> Made:
    """The files that are made of a model; None: of the packaged one."""
    model = model or make_one(resolve(PROFILE, {"teacher.finetune": None}), "source").path
    kept = Cache.default().root.absolute() / "peers" / f"llm-{sha256_file(model / TORCH_WEIGHTS)[:16]}"
    kept.mkdir(parents=True, exist_ok=True)
    return Made(kept, model.absolute(), site.absolute())


def files(chosen: Sequence[Entry], made: Made) -> dict[Key, str]:
    """Make what is not there yet; why what could not be made was not."""
    reasons = {}
    for entry in chosen:
        try:
            entry.make(made)
        except subprocess.CalledProcessError as error:
            reasons[entry.key] = str(error.stderr).strip().splitlines()[-1][:200]
            print(f"{entry.tool}, {entry.setting}: {reasons[entry.key]}", flush=True)
    return reasons


def called(command: Sequence[str]) -> None:
    """Run a command.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def texts(model: Path, split: str, tokens: int) -> list[list[int]]:
    """The first so many tokens of a split, in windows."""
    profile = load_profile(PROFILE).profile
    splits = load(profile.data, PROFILE.parent, profile.seed, TEXTS)
    tokenizer = Tokenizer.from_file(str(model / TOKENIZER))
    return [window.tolist() for window in windows(getattr(splits, split).texts, tokenizer, tokens)]


def quality(chosen: Sequence[Entry], made: Made, tokens: int) -> dict[Key, str]:
    """Score what was not scored yet on so many tokens; why what could not be scored was not."""
    scored, reasons = texts(made.model, "test", tokens), {}
    for entry in chosen:
        file = quality_file(made, entry, tokens)
        if file.is_file():
            continue
        started = time.perf_counter()
        try:
            with Child(entry, made) as child:
                nats = [child.ask(score=[window])["nats"][0] for window in scored]
        except RuntimeError as error:
            reasons[entry.key] = str(error)
            continue
        file.write_text(json.dumps({"nats": nats, "tokens": [len(window) - 1 for window in scored]}))
        seconds = time.perf_counter() - started
        print(f"{entry.tool}, {entry.setting}: {perplexity(nats, tokens):.3f} ({seconds:.0f} s)", flush=True)
    return reasons


def quality_file(made: Made, entry: Entry, tokens: int) -> Path:
    """Where the scores of a file stand."""
    return made.kept / f"quality-{'-'.join(entry.key)}-{tokens}.json".replace(" ", "_")


def perplexity(nats: Sequence[float], tokens: int) -> float:
    """Of windows whose first tokens are given."""
    return float(np.exp(sum(nats) / (tokens - len(nats))))


def speed(chosen: Sequence[Entry], made: Made, minutes: float) -> None:
    """Time all in turns, the order reversed each round."""
    prompts = [window for window in texts(made.model, "test", 20 * WINDOW) if len(window) == WINDOW]
    turns: dict[str, Turns] = {"/".join(entry.key): [] for entry in chosen}
    loads = [os.getloadavg()[0]]
    with ExitStack() as stack:
        children = [(entry, stack.enter_context(Child(entry, made))) for entry in chosen]
        deadline, number = time.monotonic() + 60 * minutes, 0
        while number < 2 or time.monotonic() < deadline:
            tokens = prompts[number % len(prompts)]
            for entry, child in children[:: -1 if number % 2 else 1]:
                told = child.ask(read=tokens[:PROMPT], write=tokens[PROMPT : PROMPT + WRITTEN])
                turns["/".join(entry.key)].append(told)
            number += 1
            loads.append(os.getloadavg()[0])
            print(f"\rround {number}", end="", file=sys.stderr, flush=True)
    told_all = {"load": [min(loads), max(loads)], "rounds": number, "turns": turns}
    (made.kept / "speed.json").write_text(json.dumps(told_all))


def report(
    chosen: Sequence[Entry], made: Made, tokens: int, reasons: Mapping[Key, str]
) -> tuple[list[dict[str, Any]], list[tuple[str, bool]]]:
    """The rows, and each bar with whether it is held."""
    timings = made.kept / "speed.json"
    turns: dict[str, Turns] = json.loads(timings.read_text())["turns"] if timings.is_file() else {}
    found: dict[Key, dict[str, Any]] = {}
    for entry in chosen:
        row: dict[str, Any] = {"tool": entry.tool, "setting": entry.setting}
        if entry.key in reasons:
            found[entry.key] = row | {"note": reasons[entry.key]}
            continue
        row["MB"] = round(entry.share * megabytes(bytes_of(entry.make(made))), 2)
        file, own = quality_file(made, entry, tokens), turns.get("/".join(entry.key), [])
        if file.is_file():
            nats = json.loads(file.read_text())["nats"]
            row |= {"perplexity": round(perplexity(nats, tokens), 3), **loss(nats, made, tokens)}
        if own:
            row |= {
                "prefill, tokens/s": round(PROMPT / float(np.median([turn["read_s"] for turn in own]))),
                "decode, tokens/s": round(1 / float(np.median([turn["write_s"] for turn in own])), 1),
            }
            for what, key, base in (
                ("decode over our FP32", "write_s", FLOAT),
                ("decode over Q4_0 pure", "write_s", PURE),
                ("prefill over Q4_0 pure", "read_s", PURE),
            ):
                row |= ratio(what, key, turns.get("/".join(base), []), own)
            row["waited, %"] = round(100 * float(np.median([turn["waited"] for turn in own])), 1)
        found[entry.key] = row
    return list(found.values()), bars(found, turns)


def bytes_of(path: Path) -> int:
    """Of a model: a file with what lies beside it, or the files of a folder that hold weights."""
    if path.is_file():
        return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    return sum(sum(file.stat().st_size for file in path.glob(kind)) for kind in ("*.onnx*", "*.safetensors"))


def loss(nats: Sequence[float], made: Made, tokens: int) -> dict[str, Any]:
    """What is lost of the float file's perplexity, with the interval of a bootstrap over the windows."""
    file = made.kept / f"quality-{'-'.join(FLOAT)}-{tokens}.json".replace(" ", "_")
    if not file.is_file():
        return {}
    before = json.loads(file.read_text())
    more = (np.array(nats) - before["nats"]) / before["tokens"]
    found = mean_interval(more, seed=0)
    low, high = (100 * np.expm1(each) for each in (found.low, found.high))
    return {"loss, %": round(float(100 * np.expm1(found.value)), 2), "95 % of it": f"{low:.2f} .. {high:.2f}"}


def ratio(what: str, key: str, base: Turns, own: Turns) -> dict[str, Any]:
    """How many times faster, over the rounds that nothing disturbed, or over all where those are too few."""
    if not base or len(base) != len(own):
        return {}
    value, low, high, clean = times_faster(key, base, own)
    mark = "" if clean else " (disturbed)"
    return {what: round(value, 3), f"95 %, {what}": f"{low:.3f} .. {high:.3f}{mark}"}


def times_faster(key: str, base: Turns, own: Turns) -> tuple[float, float, float, bool]:
    """The ratio with its interval, and whether it is of undisturbed rounds alone."""
    pairs = list(zip(base, own, strict=True))
    clean = [pair for pair in pairs if all(turn["waited"] <= CLEAN for turn in pair)]
    used = clean if len(clean) >= FEWEST else pairs
    first, second = (np.array([pair[which][key] for pair in used]) for which in (0, 1))
    found = bootstrap_medians([first], [second], seed=0)[1]
    return found.value, found.low, found.high, used is clean


def bars(found: Mapping[Key, Mapping[str, Any]], turns: Mapping[str, Turns]) -> list[tuple[str, bool]]:
    """What the file that is meant for speed must reach, and whether it does, as far as it was measured."""
    held: list[tuple[str, bool]] = []
    ours = found.get(DEFAULT, {})
    if "MB" in ours:
        held.append((f"{ours['MB']} MB; at most 82", ours["MB"] <= 82))
    pure = found.get(PURE, {})
    if "perplexity" in ours and "perplexity" in pure:
        least = ours["perplexity"], pure["perplexity"]
        held.append((f"perplexity {least[0]}; Q4_0 pure has {least[1]}", least[0] <= least[1]))
    for what, key, base, least_times in (
        ("decode over our FP32", "write_s", FLOAT, 3.3),
        ("decode over Q4_0 pure", "write_s", PURE, 0.95),
        ("decode over Q4_1", "write_s", Q4_1, 1.3),
        ("prefill over Q4_0 pure", "read_s", PURE, 1.1),
    ):
        sides = turns.get("/".join(base), []), turns.get("/".join(DEFAULT), [])
        if all(sides):
            value, low, high, _ = times_faster(key, *sides)
            held.append(
                (
                    f"{what} {value:.3f} ({low:.3f} .. {high:.3f}); at least {least_times}",
                    value >= least_times,
                )
            )
    return held


def note(model: Path | None, tokens: int, made: Made, held: Sequence[tuple[str, bool]]) -> str:
    """What stands above the table."""
    of = "SmolLM2-135M-Instruct as packaged (its weights lie on llama.cpp's 4-bit grid)"
    if model is not None:
        of = f"the decoder {model.name[:16]}"
    said = [
        f"Of {of}. Every tool is given the same FP32 weights; llama.cpp quantizes a file of 16 bits that is made of "
        f"them. Perplexity: the first {tokens} tokens of the test split of BBC News in windows of {WINDOW}, the first "
        f"token of each given; ours learn from {CALIBRATION} tokens of the training split. Speed: batch 1, one thread, "
        f"a prompt of {PROMPT} tokens and {WRITTEN} more, one process a file, all of them in turns, the likeliest word "
        "looked for each time, all with large pages of memory (glibc's `malloc.hugetlb`; ours asks for them itself); "
        "ratios are of medians, with the interval of a bootstrap over the rounds.",
        "Where 256 does not divide the width of a matrix, as here, llama.cpp's Q4_K_M stores it in 5 bits and more: "
        "it is no 4-bit file.",
    ]
    if tokens < TOKENS:
        said.append(f"**Fewer than {TOKENS} tokens: to try it.**")
    timings = made.kept / "speed.json"
    if timings.is_file():
        told = json.loads(timings.read_text())
        low, high = told["load"]
        said.append(f"{told['rounds']} rounds; the load of the machine was {low:.1f} to {high:.1f}.")
    lines = [f"- {'held' if good else 'missed'}: {text}" for text, good in held]
    return "\n\n".join([*said, f"{DEFAULT[0]}, {DEFAULT[1]}:", "\n".join(lines)])


if __name__ == "__main__":
    sys.exit(main())
