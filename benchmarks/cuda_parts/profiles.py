"""`profiles/bert_cuda.yaml` and `profiles/bert_bitsandbytes.yaml` on BBC News with all-MiniLM-L6-v2, as a
user runs them: trained on the GPU, every row measured on the GPU and on the CPU. `right on one`: test texts
that the same model gets right either on the GPU or on the CPU alone. GPU memory is what the process holds of
the card, its context included."""

from __future__ import annotations

import json
from typing import Any

from cuda_parts.part import ROOT, Part, digits, installed

BATCHES = (1, 8, 64)


def run(part: Part) -> None:
    installed("pydantic", "optimum", "torch_pruning")
    shared = {"data": {"path": part.data, "max_length": 16 if part.dry else 128}, "budget": {}}
    shared["measure"] = {"examples": 64, "min_seconds": 0.5, "min_rounds": 10, "patience_s": 5}
    if part.dry:
        shared["measure"] |= {"examples": 2, "min_seconds": 0.01, "min_rounds": 2, "patience_s": 0}
    finetune = {"epochs": 2, "learning_rate": 1e-4, "batch_size": 32}
    shared["teacher"] = {"model": part.model, "finetune": finetune}
    student = {
        "student": {"layers": 3, "from": "teacher"},
        "epochs": 3,
        "batch_size": 32,
        "learning_rate": 1e-4,
    }
    with part.case(profile="bert_cuda"):
        one(
            part,
            "bert_cuda",
            "bert_cuda",
            {**shared, "passes": [{"distill": student}], "targets": targets(part, onnx=True)},
        )
    for name, keys in (("NF4", {"bits": 4, "numbers": "nf4"}), ("INT8", {"bits": 8})):
        with part.case(profile=f"bert_bitsandbytes {name}"):
            installed("bitsandbytes")
            passes = [{"quantize": {**keys, "library": "bitsandbytes"}}]
            one(
                part,
                "bert_bitsandbytes",
                f"bert_bitsandbytes_{name}",
                {**shared, "passes": passes, "targets": targets(part)},
            )


def targets(part: Part, onnx: bool = False) -> list[dict[str, Any]]:
    """The GPU with torch, and with onnxruntime where that is its GPU build; the CPU beside."""
    batches = list(BATCHES[:2] if part.dry else BATCHES)
    gpu: dict[str, Any] = {"device": part.device, "batch_sizes": batches}
    cpu = {
        "name": "cpu",
        "device": "cpu",
        "runtime": "torch",
        "threads": 1 if part.dry else 8,
        "batch_sizes": [1],
    }
    found = [{**gpu, "name": "gpu-torch", "runtime": "torch"}, cpu]
    if onnx and (part.dry or has_gpu_build()):
        found.insert(1, {**gpu, "name": "gpu-onnxruntime", "runtime": "onnxruntime"})
    return found


def has_gpu_build() -> bool:
    from importlib import metadata

    try:
        return bool(metadata.version("onnxruntime-gpu"))
    except metadata.PackageNotFoundError:
        return False


def one(part: Part, profile: str, name: str, changes: dict[str, Any]) -> None:
    """Run a profile and tell of each row on each target."""
    words = [f"{key}={json.dumps(value)}" for key, value in {**changes, "name": name}.items()]
    done = part.compress(
        "run", str(ROOT / "profiles" / f"{profile}.yaml"), *(f"--set={word}" for word in words), "--quiet"
    )
    if done.returncode not in (0, 3):
        raise RuntimeError(
            f"exit code {done.returncode}: {(done.stderr.strip() or 'it said nothing').splitlines()[0]}"
        )
    for file in ("report.html", "report.md", "rows.csv"):
        if not (part.work / "reports" / name / file).is_file():
            raise RuntimeError(f"the report has no {file}")
    for row in part.report(name)["rows"]:
        hits = {one["target"]: bits(one["hits"]) for one in row["targets"] if one.get("hits")}
        for target in row["targets"]:
            other = (
                None
                if "cpu" not in hits
                else sum(a != b for a, b in zip(hits["cpu"], hits[target["target"]], strict=True))
            )
            for timed in target["latency"]:
                part.tell(
                    profile=name,
                    row=row["step"],
                    target=target["target"],
                    score=digits(target["score"]),
                    interval=f"{target['score_low']:.3f}-{target['score_high']:.3f}",
                    **{
                        "right on one": other,
                        "batch": timed["batch_size"],
                        "p50 ms": digits(timed["latency_p50_ms"]),
                    },
                    speedup=digits(timed["speedup"]) if timed["speedup"] else None,
                    **{"GPU MB": target["gpu_peak_memory_mb"], "size MB": round(row["size_mb"], 2)},
                )


def bits(hits: str) -> str:
    """Hexadecimal digits as a string of bits."""
    return "".join(f"{int(digit, 16):04b}" for digit in hits)
