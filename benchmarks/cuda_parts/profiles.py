"""`profiles/bert_cuda.yaml` and `profiles/bert_bitsandbytes.yaml` on BBC News with all-MiniLM-L6-v2, as a
user runs them: trained on the GPU, every row measured on the GPU and on the CPU. `right on one`: test texts
that the same model gets right either on the GPU or on the CPU alone. GPU memory is what the process holds of
the card, its context included."""

from __future__ import annotations

import json
from typing import Any

from cuda_parts.part import ROOT, Part, digits, installed

DISTILL = {
    "student": {"layers": 3, "from": "teacher"},
    "epochs": 3,
    "batch_size": 32,
    "learning_rate": 1e-4,
}
PACK = {"bits": 4, "numbers": "nf4", "library": "bitsandbytes"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert_cuda": ("bert_cuda", {"distill": DISTILL}),
    "bert_bitsandbytes": ("bert_bitsandbytes", {"quantize": PACK}),
    "bert_bitsandbytes_INT8": ("bert_bitsandbytes", {"quantize": {"bits": 8, "library": "bitsandbytes"}}),
}
"""Name of the run -> the profile and its pass."""


def run(part: Part) -> None:
    installed("pydantic", "optimum", "torch_pruning", "bitsandbytes")
    told: set[tuple[Any, ...]] = set()
    # First what only a GPU can tell. What was measured then is not measured again beside the CPU.
    for beside in (True,) if part.dry else (False, True):
        for name in list(CASES)[:2] if part.dry else CASES:
            with part.case(profile=name):
                tell(part, name, run_once(part, name, targets(part, beside)), told)


def targets(part: Part, beside: bool) -> list[dict[str, Any]]:
    """The GPU with torch, and with onnxruntime where that is its GPU build; the CPU beside where that is asked for."""
    gpu = {"device": part.device, "batch_sizes": [1, 8] if part.dry else [1, 8, 64]}
    found: list[dict[str, Any]] = [{**gpu, "name": "gpu-torch", "runtime": "torch"}]
    if has_gpu_build() and not part.dry:
        found.append({**gpu, "name": "gpu-onnxruntime", "runtime": "onnxruntime"})
    if beside:
        found.append({"name": "cpu", "device": "cpu", "runtime": "torch", "threads": 1 if part.dry else 8})
    return found


def has_gpu_build() -> bool:
    from importlib import metadata

    try:
        return bool(metadata.version("onnxruntime-gpu"))
    except metadata.PackageNotFoundError:
        return False


def run_once(part: Part, name: str, asked: list[dict[str, Any]]) -> dict[str, Any]:
    """The report of a profile on BBC News; a model of bitsandbytes is measured with torch alone."""
    profile, made = CASES[name]
    if "quantize" in made:
        asked = [target for target in asked if target["name"] != "gpu-onnxruntime"]
    measure = {"examples": 64, "min_seconds": 0.5, "min_rounds": 10, "patience_s": 5}
    if part.dry:
        measure = {"examples": 2, "min_seconds": 0.01, "min_rounds": 2, "patience_s": 0}
    changes = {
        "name": name,
        "data": {"path": part.data, "max_length": 16 if part.dry else 128},
        "teacher": {
            "model": part.model,
            "finetune": {"epochs": 2, "learning_rate": 1e-4, "batch_size": 32},
        },
        "passes": [made],
        "targets": asked,
        "budget": {},
        "measure": measure,
    }
    words = (f"--set={key}={json.dumps(value)}" for key, value in changes.items())
    done = part.compress("run", str(ROOT / "profiles" / f"{profile}.yaml"), *words, "--quiet")
    if done.returncode != 0:
        said = (done.stderr.strip() or "it said nothing").splitlines()[0]
        raise RuntimeError(f"exit code {done.returncode}: {said}")
    for file in ("report.html", "report.md", "rows.csv"):
        if not (part.work / "reports" / name / file).is_file():
            raise RuntimeError(f"the report has no {file}")
    return part.report(name)


def tell(part: Part, name: str, report: dict[str, Any], told: set[tuple[Any, ...]]) -> None:
    """Each row on each target and batch size, once."""
    for row in report["rows"]:
        hits = {target["target"]: bits(target["hits"]) for target in row["targets"] if target.get("hits")}
        for target in row["targets"]:
            where = target["target"]
            if where != "cpu" and {"cpu", where} <= hits.keys():
                alone = sum(a != b for a, b in zip(hits["cpu"], hits[where], strict=True))
                part.tell(profile=name, row=row["step"], target=where, **{"right on one": alone})
            for timed in target["latency"]:
                key = (row["step"], row["key"], where, timed["batch_size"])
                if key in told:
                    continue
                told.add(key)
                part.tell(
                    profile=name,
                    row=row["step"],
                    target=where,
                    score=digits(target["score"]),
                    interval=f"{target['score_low']:.3f}-{target['score_high']:.3f}",
                    batch=timed["batch_size"],
                    **{"p50 ms": digits(timed["latency_p50_ms"])},
                    speedup=digits(timed["speedup"]) if timed["speedup"] else None,
                    **{"GPU MB": target["gpu_peak_memory_mb"], "size MB": round(row["size_mb"], 2)},
                )


def bits(hits: str) -> str:
    """Hexadecimal digits as a string of bits."""
    return "".join(f"{int(digit, 16):04b}" for digit in hits)
