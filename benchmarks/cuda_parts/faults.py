"""What a user sees where the GPU is not to be had: no card that may be used, another process that holds its
memory while a model is trained, and more processes than cards; then the same command again, which goes on.
Expected: the exit code that docs and `--help` name, and one line that says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys

from cuda_parts.part import Part, installed

HOLD = """
import sys, time, torch
free, total = torch.cuda.mem_get_info()
held = torch.empty(free - int(sys.argv[1]) * 2**20, dtype=torch.uint8, device="cuda")
print("held", flush=True)
time.sleep(120)
"""
LEFT_MB = 700
"""Of the card, by the process that holds the rest: enough for a context, too little to train in."""


def run(part: Part) -> None:
    installed("pydantic", "optimum", "torch_pruning")
    with part.case(what="no card that may be used"):
        tell(
            part,
            "no card that may be used",
            run_once(part, "no_card", device="cuda", CUDA_VISIBLE_DEVICES=""),
            5,
        )
    with part.case(what="two processes, one card"):
        two = run_once(part, "two", device=part.device, processes=2)
        tell(part, "two processes, one card", two, 0 if part.dry else 2)
    with part.case(what="another process holds the card"):
        if part.dry:
            part.tell(skipped="another process holds the card: there is none")
            return
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(LEFT_MB)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout is not None
            if holder.stdout.readline().strip() != "held":
                raise RuntimeError("the card's memory could not be held")
            tell(part, "another process holds the card", run_once(part, "full", device="cuda", batch=1024), 7)
        finally:
            holder.kill()
            holder.wait()
        tell(part, "the same command, once it is free", run_once(part, "full", device="cuda", batch=1024), 0)


def run_once(
    part: Part, name: str, *, device: str, processes: int = 1, batch: int = 32, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Fine-tune for one epoch and measure it with torch."""
    profile = {
        "name": name,
        "task": "text-classification",
        "data": {"path": part.data, "max_length": 16 if part.dry else 128},
        "teacher": {"model": part.model, "finetune": {"epochs": 1, "batch_size": batch, "seed": len(name)}},
        "passes": [{"low_rank": {"ratio": 0.5, "recover": None}}],
        "targets": [{"device": device, "runtime": "torch"}],
        "measure": {"examples": 2, "min_seconds": 0.01, "min_rounds": 2, "patience_s": 0},
        "train": {"processes": processes},
    }
    file = part.work / f"{name}.yaml"
    file.write_text(json.dumps(profile))
    return part.compress("run", str(file), "--quiet", "--allow-unjudged", **variables)


def tell(part: Part, what: str, done: subprocess.CompletedProcess[str], expected: int) -> None:
    said = (done.stderr.strip() or "nothing").splitlines()
    part.tell(
        what=what, **{"exit code": done.returncode, "expected": expected, "said": " / ".join(said)[:300]}
    )
