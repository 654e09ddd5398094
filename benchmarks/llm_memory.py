"""How much memory a large decoder takes on its way: a random Llama of 1.1 B parameters, lowered, quantized, and run.

    python benchmarks/llm_memory.py [--layers 22] [--folder FOLDER]

The weights are random, written layer by layer as safetensors (4.4 GB), and every stage is a process of its own, whose
peak is the one that the kernel counts (`ru_maxrss`), pages of mapped files included. Needs 10 GB of disk. Writes
reports/benchmarks/llm_memory.json and .md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from writing import write_rows

LIMIT_GIB = 8
NEW = 16
LAYER_FILE = "layer-{}.safetensors"
SIZES = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}


def main() -> int:
    """Run the stages one after the other and write down what each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=22, help="fewer, to try it")
    parser.add_argument("--folder", type=Path, help="where the files lie meanwhile")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        started = time.perf_counter()
        facts = STAGES[options.stage](options.folder, options.layers)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**facts, "peak": peak, "seconds": time.perf_counter() - started}))
        return 0
    with tempfile.TemporaryDirectory(prefix="llm-memory-", dir=options.folder) as name:
        rows = [in_process(stage, Path(name), options.layers) for stage in STAGES]
    note = (
        f"A random Llama with {options.layers} layers. Peaks are of whole processes, with the libraries that they "
        f"import (torch for the first two). {NEW} tokens are generated after a prompt of 32."
    )
    write_rows("llm_memory", rows, note=note)
    return 0 if all(row["within 8 GiB"] for row in rows) else 1


def in_process(stage: str, folder: Path, layers: int) -> dict[str, Any]:
    """The row of a stage."""
    command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder), "--layers", str(layers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    gib = found.pop("peak") / 2**30
    seconds = round(found.pop("seconds"), 1)
    return {
        "stage": stage,
        "peak, GiB": round(gib, 2),
        "within 8 GiB": gib < LIMIT_GIB,
        "s": seconds,
        **found,
    }


def write_weights(folder: Path, layers: int) -> dict[str, Any]:
    """A file for what stands outside the layers, and one a layer."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    config = config_of(layers)
    with torch.device("meta"):
        shapes = {
            name: value.shape for name, value in AutoModelForCausalLM.from_config(config).state_dict().items()
        }
    torch.manual_seed(0)
    for layer in ("outside", *range(layers)):
        prefix = f"model.layers.{layer}."
        names = [
            name
            for name in shapes
            if (name.startswith(prefix) if layer != "outside" else ".layers." not in name)
        ]
        made = {name: torch.randn(shapes[name]) * 0.02 + ("norm" in name) for name in names}
        save_file(made, folder / LAYER_FILE.format(layer))
    config.save_pretrained(folder)
    return {
        "parameters": sum(shape.numel() for shape in shapes.values()),
        "MB": megabytes_of(folder, "*.safetensors"),
    }


def lower(folder: Path, layers: int) -> dict[str, Any]:
    """The weights as an ONNX file."""
    from safetensors.torch import load_file

    from compress.lowering.decoder.graph import decoder_graph
    from compress.lowering.decoder.layout import layout_of
    from compress.lowering.files import save_onnx

    weights = {}
    for file in folder.glob("*.safetensors"):
        weights |= load_file(file)
    (folder / "float").mkdir()
    save_onnx(decoder_graph(layout_of(config_of(layers)), weights), folder / "float")
    return {"MB": megabytes_of(folder / "float", "model.onnx*")}


def quantize(folder: Path, layers: int) -> dict[str, Any]:
    """Round to nearest, 4 bits in blocks of 32."""
    import onnx_ir as ir

    from compress.lowering.files import save_onnx
    from compress.passes.quantize.weight_only.methods import quantize_weights
    from compress.passes.quantize.weight_only.spec import WeightOnlySpec

    source, out = folder / "float" / "model.onnx", folder / "int4"
    out.mkdir()
    model = ir.load(source)
    quantize_weights(model, source, WeightOnlySpec(method="rtn"), lambda: iter(()), out)
    save_onnx(model, out)
    return {"MB": megabytes_of(out, "model.onnx*")}


def answer(folder: Path, layers: int) -> dict[str, Any]:
    """A few tokens, greedily."""
    from compress.runtimes.decoding import Decoder, generate
    from compress.runtimes.runner import CachedSession, open_session

    decoder = Decoder(CachedSession(open_session(str(folder / "int4" / "model.onnx"))), 32 + NEW)
    tokens = generate(decoder, [list(range(3, 35))], NEW)[0]
    return {"tokens": len(tokens)}


def config_of(layers: int) -> Any:
    """The Llama."""
    from transformers import LlamaConfig

    return LlamaConfig(num_hidden_layers=layers, **SIZES)


def megabytes_of(folder: Path, pattern: str) -> float:
    """Size of files."""
    return round(sum(file.stat().st_size for file in folder.glob(pattern)) / 1e6, 1)


STAGES = {"write": write_weights, "lower": lower, "quantize": quantize, "generate": answer}


if __name__ == "__main__":
    raise SystemExit(main())
