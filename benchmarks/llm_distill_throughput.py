"""What a step of distilling a language model takes beside its own supervised step, and beside TRL's GKDTrainer.

    pip install --no-deps --target TRL trl
    PYTHONPATH=TRL python benchmarks/llm_distill_throughput.py --teacher FOLDER [--rounds 8] [--steps 4] [--threads 1]
        [--batch 4] [--tokens 256]

The student is the teacher's config with 22 layers and a feed-forward width of three quarters: of SmolLM2-135M 91.6 M
parameters. All learn from the same windows of as many tokens, in bf16 autocast, with fused AdamW and clipped gradients:

- `supervised`: the training loop of this package, by the next token alone;
- `kd`: the same loop, by the 64 likeliest words of the teacher, which were kept before (`logits: {temperature: 1}`);
- `trl`: `GKDTrainer`, off-policy (`lmbda: 0`), forward KL (`beta: 0`), its teacher in bf16 and run in every step, as it
  knows no other way.

In each round all take their turn over some steps, in an order that is turned. A step is the time between two losses:
all of it but evaluations and checkpoints. Ratios are those of the medians, with 95 % intervals of a bootstrap over
rounds, of the wall clock and of the processor's time, which other processes disturb less; what share of the wall clock
was waited is the load. Writes reports/benchmarks/llm_distill_throughput.json and .md after each round.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from running import terminal
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from writing import write_rows

from compress.core.artifacts import TOKENIZER, Artifact, open_artifact
from compress.core.terminal.progress import SilentProgress
from compress.encoding.inputs import LOSS_MASK
from compress.losses.logits.spec import LogitsLoss
from compress.losses.next_token.spec import NextTokenLoss
from compress.models.io.architectures import read_config
from compress.models.io.checkpoints import load_model
from compress.profile.specs.training import TrainingSpec
from compress.store.flat import Ragged
from compress.tasks.causal_lm.text.windows import WindowInputs
from compress.training.loop import train
from compress.training.objective.batch_loss import batch_loss
from compress.training.objective.training_module import TrainingModule
from compress.training.objective.weighted_losses import objective_between
from compress.training.signals.answers import from_cache, no_signals
from compress.training.signals.teachers import cached_signals

NAME = "llm_distill_throughput"
LAYERS, FEED_FORWARD = 22, 0.75
UNTIMED = 2
"""Steps before those that are timed: the first makes the optimizer's moments."""
RATIOS = (("kd", "supervised"), ("kd", "trl"))
Times = NDArray[np.float64]
Turn = Callable[[], Times]
"""One turn: wall and processor seconds of each step, (steps, 2)."""


def main() -> None:
    """Time all in turns, write down after each round."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", type=Path, required=True, help="its artifact, in torch form")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="timed in a turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    teacher = open_artifact(options.teacher)
    with tempfile.TemporaryDirectory(prefix="llm-distill-") as folder:
        turns = turns_of(teacher, options, Path(folder))
        found: dict[str, list[Times]] = {name: [] for name in turns}
        for number in range(options.rounds):
            names = list(turns)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                found[name].append(turns[name]())
                print(f"round {number + 1} of {options.rounds}: {name} {found[name][-1].mean(0)}", flush=True)
            write_rows(NAME, rows_of(found, options), note=note_of(options))


def turns_of(teacher: Artifact, options: argparse.Namespace, folder: Path) -> dict[str, Turn]:
    """How each takes its turn."""
    inputs = windows_of(teacher, options)
    student = partial(student_of, teacher)
    turns = {
        name: partial(own_turn, student(), teacher, inputs, options, folder, kd=name == "kd")
        for name in ("supervised", "kd")
    }
    if find_spec("trl") is None:
        print("trl is not installed: see the head of this script", flush=True)
        return turns
    return {**turns, "trl": trl_turn(student(), teacher, inputs, options, folder)}


def student_of(teacher: Artifact) -> nn.Module:
    """A model of the teacher's kind with fewer layers and a narrower feed-forward part, random weights."""
    config = read_config(teacher.path)
    config.num_hidden_layers = min(LAYERS, config.num_hidden_layers)
    config.intermediate_size = round(FEED_FORWARD * config.intermediate_size)
    torch.manual_seed(0)
    made: nn.Module = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="sdpa"
    )
    return made


def windows_of(teacher: Artifact, options: argparse.Namespace) -> WindowInputs:
    """Windows of random tokens, as many as a turn reads: what stands in them changes no time."""
    random = np.random.default_rng(0)
    words = read_config(teacher.path).vocab_size
    count, length = options.batch * (options.steps + UNTIMED), options.tokens
    return WindowInputs(
        [random.integers(0, words, length) for _ in range(count)],
        ("input_ids", "attention_mask"),
        0,
        target_mask=Ragged.of([np.arange(length) > 0] * count),
        documents=np.arange(count),
        target_bytes=np.full(count, length, np.int64),
    )


def own_turn(
    student: nn.Module,
    teacher: Artifact,
    inputs: WindowInputs,
    options: argparse.Namespace,
    folder: Path,
    *,
    kd: bool,
) -> Times:
    """Some steps of the training loop of this package."""
    losses = [LogitsLoss(temperature=1.0)] if kd else [NextTokenLoss()]
    theirs = (load_model(teacher.path), inputs) if kd else None
    objective = objective_between(losses, student, (teacher.path, inputs), theirs, seed=0)
    answers = no_signals
    if kd:
        answers = from_cache(
            cached_signals(
                lambda: load_model(teacher.path),
                inputs,
                objective.teacher_needs,
                folder / "signals",
                teacher_digest=teacher.digest,
                device="cpu",
                precision="bf16",
                progress=terminal(),
            )
        )
    module, clock = TrainingModule(student, objective), Clock()
    inner = batch_loss(module, answers, np.zeros(len(inputs), np.int64))

    def loss(outputs: Tensor, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        clock.tick()
        return inner(outputs, batch, indices)

    with tempfile.TemporaryDirectory(dir=folder) as work:
        train(
            module,
            inputs,
            loss,
            TrainingSpec(epochs=1, batch_size=options.batch, learning_rate=1e-5),
            lambda model: 0.0,
            work=Path(work),
            seed=0,
            precision="bf16",
            device="cpu",
            progress=SilentProgress(),
            name="timed",
            checkpoint_seconds=1e9,
        )
    return clock.steps(options.steps)


def trl_turn(
    student: nn.Module, teacher: Artifact, inputs: WindowInputs, options: argparse.Namespace, folder: Path
) -> Turn:
    """Likewise of TRL's trainer."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    clock = Clock()

    class Timed(GKDTrainer):  # type: ignore[misc]
        def compute_loss(self, *given: Any, **named: Any) -> Any:
            clock.tick()
            return super().compute_loss(*given, **named)

    def together(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = inputs.batch([row["number"] for row in rows])
        ids, mask = (torch.from_numpy(batch[name]) for name in inputs.input_names)
        learnt = torch.from_numpy(batch[LOSS_MASK]).bool()
        first = {"prompts": ids[:, :1], "prompt_attention_mask": mask[:, :1]}
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.where(learnt, -100), **first}

    settings = GKDConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=options.batch,
        max_steps=options.steps + UNTIMED,
        learning_rate=1e-5,
        bf16=True,
        use_cpu=True,
        lmbda=0.0,
        beta=0.0,
        temperature=1.0,
        gradient_checkpointing=False,
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(teacher.path / TOKENIZER), eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    trainer = Timed(
        student,
        teacher_model=load_model(teacher.path).bfloat16(),
        args=settings,
        data_collator=together,
        train_dataset=Dataset.from_dict({"number": list(range(len(inputs)))}),
        processing_class=tokenizer,
    )

    def turn() -> Times:
        trainer.train()
        return clock.steps(options.steps)

    return turn


class Clock:
    """Wall and processor time between the losses of a turn."""

    def __init__(self) -> None:
        self._ticks: list[tuple[float, float]] = []

    def tick(self) -> None:
        """A loss begins."""
        self._ticks.append((time.perf_counter(), time.process_time()))

    def steps(self, count: int) -> Times:
        """The last so many steps, (count, 2), which are forgotten."""
        found = np.diff(np.array(self._ticks), axis=0)[-count:]
        self._ticks.clear()
        return found


def rows_of(found: dict[str, list[Times]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """What each takes, and the ratios."""
    rows: list[dict[str, Any]] = []
    for name, turns in found.items():
        if turns:
            wall, busy = np.median(np.concatenate(turns), axis=0)
            total = np.concatenate(turns).sum(0)
            rows.append(
                {
                    "way": name,
                    "steps": sum(map(len, turns)),
                    "wall s a step": round(float(wall), 3),
                    "processor s a step": round(float(busy), 3),
                    "tokens/s": round(options.batch * options.tokens / float(wall), 1),
                    "waited, %": round(100 * max(0.0, 1 - total[1] / total[0] / options.threads), 1),
                }
            )
    for first, second in RATIOS:
        if found.get(first) and found.get(second):
            row: dict[str, Any] = {"way": f"{first} over {second}, time a step"}
            for place, clock in enumerate(("wall", "processor")):
                ratio, low, high = ratio_of(found[first], found[second], place)
                row[f"ratio, {clock}"] = f"{ratio:.3f} [{low:.3f}, {high:.3f}]"
            rows.append(row)
    return rows


def ratio_of(first: list[Times], second: list[Times], place: int) -> tuple[float, float, float]:
    """The ratio of the medians of a step, and its interval over rounds."""
    rounds = min(len(first), len(second))
    mine, theirs = (np.array([turn[:, place] for turn in turns[:rounds]]) for turns in (first, second))
    drawn = np.random.default_rng(0).integers(rounds, size=(2000, rounds))
    each = [float(np.median(mine[rows]) / np.median(theirs[rows])) for rows in drawn]
    low, high = np.percentile(each, [2.5, 97.5])
    return float(np.median(mine) / np.median(theirs)), float(low), float(high)


def note_of(options: argparse.Namespace) -> str:
    """What was timed."""
    beside = f" trl {version('trl')}." if find_spec("trl") else " trl is not installed."
    return (
        f"{options.batch} x {options.tokens} tokens a step, bf16, {options.threads} thread, torch {torch.__version__};"
        f"{beside} Load over a minute: {os.getloadavg()[0]:.1f}. Ratios below 1: the first takes less time."
    )


if __name__ == "__main__":
    main()
