"""How much memory calibration takes: BERT-base with random weights, 512 samples of 128 tokens, every method.

    python benchmarks/calibration_memory.py [--samples 512]

Each row is measured in a process of its own that imports no torch: its resident peak above the size before the model
is read, beside that of plain inference of the same model. The counters are those of the runner.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
from writing import write_rows

from compress.core.units import megabytes
from compress.encoding.inputs import Batch
from compress.passes.quantize.calibration.activation_ranges import Method, calibrate
from compress.runtimes import runner

SAMPLES, TOKENS = 512, 128
VOCABULARY = 30522
LIMIT_MB = 2000
INFERENCE = "inference"


def main() -> None:
    """Make the model, measure each method beside plain inference, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="fewer, to try it")
    parser.add_argument("--measure", nargs=2, metavar=("METHOD", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], Path(options.measure[1]), options.samples)))
        return
    with tempfile.TemporaryDirectory(prefix="calibration-") as name:
        model = Path(name)
        code = "import calibration_memory as m, sys; m.make_model(sys.argv[1])"
        subprocess.run([sys.executable, "-c", code, name], cwd=Path(__file__).parent, check=True)
        plain = in_process(INFERENCE, model, options.samples)
        size = megabytes(sum(file.stat().st_size for file in model.glob("model.onnx*")))
        rows = []
        for method in get_args(Method):
            found = in_process(method, model, options.samples)
            above = found["peak_mb"] - size
            rows.append(
                {
                    "method": method,
                    "peak_mb": round(found["peak_mb"]),
                    "above_the_model_mb": round(above),
                    "under_2_gb": above < LIMIT_MB,
                    "above_plain_inference_mb": round(found["peak_mb"] - plain["peak_mb"]),
                    "values": found["values"],
                    "cpu_seconds": round(found["seconds"], 1),
                    "cpu_seconds_of_inference": round(plain["seconds"], 1),
                }
            )
    write_rows(
        "calibration_memory" if options.samples >= SAMPLES else "calibration_memory.quick",
        rows,
        script="calibration_memory",
        note=f"BERT-base, 12 layers, 768 wide, random weights ({size:.0f} MB), {options.samples} samples x "
        f"{TOKENS} tokens, one thread. `peak_mb` is above the process before it reads the model; plain inference "
        f"peaks at {plain['peak_mb']:.0f} MB there.",
    )


def in_process(method: str, model: Path, samples: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--samples", str(samples), "--measure", method, str(model)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def make_model(folder: str) -> None:
    """Write BERT-base with random weights, as the lowering step writes it."""
    import torch
    from transformers import AutoModelForSequenceClassification, BertConfig

    from compress.lowering.attention import fuse_attention
    from compress.lowering.early_token_selection import select_early
    from compress.lowering.export import Signature, export_graph
    from compress.lowering.files import save_onnx
    from compress.lowering.graph import tidy
    from compress.lowering.naming import name_after_modules

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(BertConfig(), attn_implementation="eager").eval()
    names = ("input_ids", "attention_mask", "token_type_ids")
    example = {name: torch.ones((2, 16), dtype=torch.int64) for name in names}
    graph = export_graph(model, Signature(example, ("batch", "sequence"), "logits"))
    name_after_modules(graph)
    fuse_attention(graph)
    select_early(graph)
    tidy(graph)
    save_onnx(graph, Path(folder))


def random_samples(count: int) -> Iterator[Batch]:
    """Random tokens, one sample at a time."""
    random = np.random.default_rng(0)
    ones = np.ones((1, TOKENS), np.int64)
    for _ in range(count):
        ids = random.integers(0, VOCABULARY, (1, TOKENS))
        yield {"input_ids": ids, "attention_mask": ones, "token_type_ids": 0 * ones}


def measure(method: str, folder: Path, samples: int) -> dict[str, Any]:
    """Peak MB above the process without a model, and CPU seconds, of one method or of plain inference."""
    import onnx_ir as ir
    import onnxruntime  # noqa: F401

    from compress.passes.quantize.int8.static import calibrated_value_names
    from compress.passes.quantize.layers import weighted_layers

    path = folder / "model.onnx"
    graph = ir.load(path).graph
    names = calibrated_value_names(graph, list(weighted_layers(graph)))
    del graph
    gc.collect()
    runner.reset_peak()
    before, started = runner.resident_bytes(), time.process_time()
    if method == INFERENCE:
        session = runner.open_session(str(path))
        for batch in random_samples(samples):
            session.run(None, batch)
    else:
        calibrate(path, names, lambda: random_samples(samples), method, folder)  # type: ignore[arg-type]
    return {
        "peak_mb": megabytes(runner.peak_bytes()[0] - before),
        "seconds": time.process_time() - started,
        "values": len(names),
    }


if __name__ == "__main__":
    main()
