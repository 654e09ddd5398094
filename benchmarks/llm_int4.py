"""What every way of storing a decoder's weights in blocks costs: perplexity by the ONNX file itself, and size.

    python benchmarks/llm_int4.py --model FOLDER [--finetuned FOLDER] [--text FILE] [--tokens 50000]
        [--calibration 16384] [--quick]

The folders hold a decoder in torch form (safetensors, tokenizer): as packaged, whose weights lie on a 4-bit grid
already, and fine-tuned by profiles/smollm_int4.yaml (the artifact of its teacher, in the cache of the run). Scored is
the test split of that profile, in windows of 512 tokens that follow one another, the first token of each given; or the
text FILE. GPTQ and AWQ learn from its training split. A third subject is the same function as the fine-tuned model (or
the packaged one) with its stream rotated (`rotate: true`). Beside the fine-tuned one, the packaged one shows the first
four variants alone: what a grid that was there already makes of them.

The rows that tell most come first, and after each the report is written: a run that is stopped goes on where it was. On
one core of an EPYC a row of SmolLM2-135M takes two minutes to round to nearest and five with GPTQ, most of it scoring
(50,000 tokens).
Writes reports/benchmarks/llm_int4.json and .md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig
from writing import read_rows, write_rows

from compress.core.artifacts import ONNX_MODEL
from compress.core.units import megabytes
from compress.data.kinds import TEXTS
from compress.encoding.inputs import Batch
from compress.lowering.decoder.graph import decoder_graph
from compress.lowering.decoder.layout import layout_of
from compress.lowering.files import save_onnx
from compress.passes.quantize.calibration.activation_capture import empty_past
from compress.passes.quantize.kv_cache import quantize_kv_cache
from compress.passes.quantize.size_check import model_bytes
from compress.passes.quantize.weight_only.methods import quantize_weights
from compress.passes.quantize.weight_only.rotation import ROTATIONS, rotate
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.profile.load import load_profile
from compress.runtimes.runner import open_session
from compress.tasks.causal_lm.data import load

WINDOW = 512
METHODS = ("rtn", "gptq", "hqq", "awq")
PROFILE = Path(__file__).parents[1] / "profiles" / "smollm_int4.yaml"
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Variant:
    """How weights are stored: the keys of `quantize`."""

    method: str
    block_size: int
    symmetric: bool
    bits: int = 4
    embeddings: int = 8
    eight_bits: tuple[str, ...] = ("head",)
    activation_order: bool = True
    cache: int | None = None
    calibration: int | None = None
    """Tokens that it learns from; None: as many as all."""

    def spec(self) -> WeightOnlySpec:
        """As a profile asks for it."""
        keys = {**vars(self), "scheme": "weight_only"}
        del keys["calibration"]
        if self.activation_order:
            del keys["activation_order"]
        return WeightOnlySpec.model_validate(keys)

    def row(self) -> dict[str, Any]:
        """Its columns."""
        return {
            "method": self.method,
            "bits": self.bits,
            "block": self.block_size,
            "zero points": "no" if self.symmetric else "yes",
            "bits of the table": self.embeddings,
            "8 bits too": " ".join(self.eight_bits),
            "besides": ", ".join(
                [
                    *([] if self.activation_order else ["columns in their order"]),
                    *([] if self.cache is None else [f"keys and values in {self.cache} bits"]),
                    *([] if self.calibration is None else [f"calibrated on {self.calibration} tokens"]),
                ]
            ),
        }


def variants() -> list[Variant]:
    """The most telling first."""

    def each(methods: tuple[str, ...] = METHODS, **keys: Any) -> list[Variant]:
        return [Variant(method, **{"block_size": 32, "symmetric": False, **keys}) for method in methods]

    whole: dict[str, Any] = {"embeddings": 4, "eight_bits": ()}
    sensitive = ("head", "*.feed_out", "*.attention_output")
    return [
        *each(),
        *each(block_size=64, **whole),
        *each(symmetric=True),
        *each(block_size=128),
        *each(("gptq", "rtn"), **whole),
        *each(("gptq", "rtn"), block_size=64, eight_bits=sensitive),
        *each(("gptq",), cache=8),
        *each(("gptq",), activation_order=False),
        *each(("gptq",), calibration=4096),
        *each(block_size=16),
        *each(block_size=64),
        *(one for size in (64, 128, 16) for one in each(block_size=size, symmetric=True)),
        *(one for size in (32, 64, 128, 16) for one in each(("rtn", "gptq"), bits=8, block_size=size)),
        *each(("hqq", "awq"), bits=8),
        *each(bits=8, symmetric=True),
    ]


def main() -> None:
    """Make, score and write down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--finetuned", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--title", help="what model and text are called; unset: by their names")
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--calibration", type=int, default=16_384)
    parser.add_argument("--quick", action="store_true", help="four variants, to try it")
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    profile = load_profile(PROFILE).profile
    splits = load(profile.data, PROFILE.parent, profile.seed, TEXTS)
    text = splits.test.texts if options.text is None else [options.text.read_text(encoding="utf-8")]
    scored, learnt = (
        windows(texts, tokenizer, tokens)
        for texts, tokens in ((text, options.tokens), (splits.train.texts, options.calibration))
    )
    name = "llm_int4.quick" if options.quick else "llm_int4"
    of = "the test split of BBC News" if options.text is None else options.text.name
    note = (
        f"{options.title or f'{options.model.name} on {of}'}: perplexity of the first {options.tokens} "
        f"tokens, windows of {WINDOW}, no interval; calibration on {options.calibration} tokens of the training split "
        "of BBC News. Loss: of the perplexity over the float file's. Share: of round to nearest's loss with the same "
        "blocks. 'Table': the embedding, and the head that is tied to it."
    )
    asked = {"tokens": options.tokens}
    # What was scored on another number of tokens is no row of this table.
    rows = [row for row in read_rows(name) if asked.items() <= row.items()]
    subjects = {"rotated": options.finetuned or options.model, "packaged": options.model}
    if options.finetuned is not None:
        subjects = {"fine-tuned": options.finetuned, **subjects}
    with tempfile.TemporaryDirectory(prefix="llm-int4-") as folder:
        sources = {subject: lowered(model, subject, Path(folder)) for subject, model in subjects.items()}
        few = variants()[: len(METHODS)]
        shown = {subject: few if options.quick else variants() for subject in sources}
        if options.finetuned is not None:
            shown["packaged"] = few
        wanted = [
            (subject, variant)
            for variant in (None, *variants())
            for subject in sources
            if variant is None or variant in shown[subject]
        ]
        wanted.sort(key=lambda pair: pair[0] == "packaged")  # stable: what left the grid first
        began, made = time.perf_counter(), 0
        for place, (subject, variant) in enumerate(wanted):
            own = {"method": "float"} if variant is None else variant.row()
            key = {"model": subject, **own, **asked}
            if any(key.items() <= row.items() for row in rows):
                continue
            path, seconds = sources[subject], 0.0
            if variant is not None:
                work = Path(folder) / "variant"
                work.mkdir(exist_ok=True)
                started = time.perf_counter()
                model = ir.load(path)
                read = learnt if variant.calibration is None else learnt[: -(-variant.calibration // WINDOW)]
                batches = partial(map, batch_of, read)
                spec = variant.spec()
                if subject == "rotated":
                    spec = spec.model_copy(update={"exclude": ROTATIONS})
                quantize_weights(model, path, spec, batches, work)
                if variant.cache is not None:
                    quantize_kv_cache(model, batches, work)
                path = save_onnx(model, work)
                seconds = time.perf_counter() - started
            size = round(megabytes(model_bytes(path.parent)), 1)
            found = {"perplexity": perplexity(path, scored), "MB": size, "quantizing, s": round(seconds)}
            rows = losses([*rows, key | found])
            write_rows(name, rows, note=note, script="llm_int4")
            made += 1
            left = (time.perf_counter() - began) / made * (len(wanted) - place - 1) / 60
            print(f"{place + 1} of {len(wanted)} rows; at most {left:.0f} min left", flush=True)


def lowered(model: Path, subject: str, folder: Path) -> Path:
    """The float file of the model, as it is or rotated."""
    layout, weights = layout_of(AutoConfig.from_pretrained(model)), load_file(model / "model.safetensors")
    graph = decoder_graph(layout, weights)
    if subject == "rotated":
        rotate(graph.graph)
    path = folder / subject.replace(" ", "_") / ONNX_MODEL
    path.parent.mkdir()
    ir.save(graph, path, external_data=f"{ONNX_MODEL}.data")
    return path


def windows(texts: Sequence[str], tokenizer: Tokenizer, tokens: int) -> list[Ids]:
    """The first so many tokens of texts, cut."""
    ids: list[int] = []
    for text in texts:
        if len(ids) < tokens:
            ids += tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) < tokens:
        raise SystemExit(f"the texts hold {len(ids)} tokens, and {tokens} are asked for")
    return [np.array(ids[start : min(start + WINDOW, tokens)]) for start in range(0, tokens, WINDOW)]


def batch_of(ids: Ids) -> Batch:
    """A window as a decoder reads it, with the logits of all tokens."""
    positions = np.arange(len(ids))[None]
    return {"input_ids": ids[None], "attention_mask": np.ones_like(positions), "logit_positions": positions}


def perplexity(path: Path, scored: list[Ids]) -> float:
    """exp of the mean loss of each token but the first of a window."""
    return round(float(np.exp(np.concatenate(token_losses(path, scored)).mean(dtype=np.float64))), 4)


def token_losses(path: Path, scored: list[Ids]) -> list[NDArray[np.float32]]:
    """Minus the log-probability of each token but the first, of each window."""
    session = open_session(str(path))
    past = empty_past(session.get_inputs(), 1)
    found: list[NDArray[np.float32]] = []
    for ids in scored:
        logits = session.run(["logits"], batch_of(ids) | past)[0][0, :-1]
        logits -= logits.max(axis=1, keepdims=True)
        wanted = np.take_along_axis(logits, ids[1:, None], axis=1)[:, 0]
        found.append(np.log(np.exp(logits).sum(axis=1)) - wanted)
    return found


def losses(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with what each loses over the float file, and which share that is of round to nearest's loss."""
    columns = ("model", "bits", "block", "zero points", "bits of the table", "8 bits too")

    def storage(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(column) for column in columns)

    floats = {row["model"]: row["perplexity"] for row in rows if row["method"] == "float"}
    found = [
        row | {"loss, %": round(100 * (row["perplexity"] / floats[row["model"]] - 1), 2)} for row in rows
    ]
    rounded = {storage(row): row["loss, %"] for row in found if row["method"] == "rtn"}
    for row in found:
        beside = rounded.get(storage(row))
        row["share"] = round(row["loss, %"] / beside, 3) if beside and row["method"] != "float" else None
    return sorted(found, key=lambda row: (row["model"], row["perplexity"]))


if __name__ == "__main__":
    main()
