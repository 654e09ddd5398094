"""Steps a second of a student of two layers, 128 wide, that learns from all-MiniLM-L6-v2 by KL at temperature
2 in batches of 64, in bf16: with what the teacher said kept on disk, the student alone on its labels, the
teacher run again for every batch in the same loop, and transformers' Trainer with a live teacher. The
building of the cache is a row of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from cuda_parts.part import Part, digits, installed, located

BATCH, TEMPERATURE = 64, 2.0


def run(part: Part) -> None:
    installed("transformers", "pydantic")
    import torch

    torch.manual_seed(0)
    epochs = 1 if part.dry else 20
    inputs, labels = texts(part)
    teacher = classifier(part, Path(part.model) if part.dry else located(part.model)).to(part.device).eval()
    steps = epochs * -(-len(inputs) // BATCH)
    found: dict[str, float] = {}

    def tell(way: str, seconds: float, count: int = steps) -> None:
        found[way] = seconds / count
        part.tell(
            way=way,
            **{
                "steps/s": digits(count / seconds),
                "ms a step": digits(1e3 * seconds / count),
                "steps": count,
            },
        )

    with part.case(way="building the cache"):
        began = time.perf_counter()
        signals = cached(part, teacher, inputs)
        tell("building the cache", time.perf_counter() - began, steps // epochs)
    ways = {
        "student alone": lambda outputs, indices: alone(outputs, labels[indices].to(part.device)),
        "cached signals": lambda outputs, indices: kl(outputs, signals.take(indices.numpy())["outputs"]),
        "live teacher": lambda outputs, indices: kl(outputs, said(part, teacher, inputs, indices.numpy())),
    }
    for way, loss in [*ways.items(), *ways.items()]:
        with part.case(way=way):
            # The first round warms up: kernels are chosen, memory is had.
            round_ = "first round: " if way not in found and f"first round: {way}" not in found else ""
            tell(round_ + way, epoch_seconds(part, inputs, loss, epochs, f"{round_}{way}"))
    with part.case(way="Trainer, live teacher"):
        installed("accelerate")
        tell("Trainer, live teacher", trainer_seconds(part, teacher, inputs, labels, epochs))
    for ours, other in (("cached signals", "student alone"), ("cached signals", "Trainer, live teacher")):
        if ours in found and other in found:
            part.tell(ratio=f"a step: {ours} / {other}", value=digits(found[ours] / found[other]))


def texts(part: Part) -> tuple[Any, Any]:
    """The articles of BBC News, cut at 128 tokens, and their classes."""
    import torch

    from compress.encoding.tokens import TokenInputs
    from compress.models.text.tokenizer_files import open_tokenizer

    folder = Path(part.data) if part.dry else located(part.data)
    model = Path(part.model) if part.dry else located(part.model)
    tokenizer = open_tokenizer(model / "tokenizer.json")
    tokenizer.enable_truncation(16 if part.dry else 128)
    tokenizer.no_padding()
    files = sorted(folder.glob("*/*.txt"))
    encoded = tokenizer.encode_batch_fast([file.read_text(errors="replace") for file in files])
    groups = sorted({file.parent.name for file in files})
    labels = torch.tensor([groups.index(file.parent.name) for file in files])
    ids = [np.array(one.ids) for one in encoded]
    return TokenInputs(ids, ("input_ids", "attention_mask", "token_type_ids"), 0, 2), labels


def classifier(part: Part, folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=5)


def student() -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification, BertConfig

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512, num_labels=5,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config)


def cached(part: Part, teacher: Any, inputs: Any) -> Any:
    from compress.core.terminal.progress import SilentProgress
    from compress.training.signals.teachers import cached_signals

    return cached_signals(
        lambda: teacher, inputs, (), part.work / "signals", teacher_digest="", device=part.device, precision="bf16",
        progress=SilentProgress(),
    )  # fmt: skip


def alone(outputs: Any, labels: Any) -> Any:
    from compress.training.loss_functions.labels import label_cross_entropy

    return label_cross_entropy(outputs, labels)


def kl(outputs: Any, goals: Any) -> Any:
    from compress.training.loss_functions.logits import divergence

    return divergence(outputs, goals, TEMPERATURE)


def said(part: Part, teacher: Any, inputs: Any, indices: Any) -> Any:
    from compress.training.batches import to_tensors
    from compress.training.signals.teachers import compute_signals

    batch = to_tensors(inputs.batch(indices), part.device)
    return compute_signals(teacher, batch, ("outputs",), precision="bf16", device=part.device)[
        "outputs"
    ].float()


def epoch_seconds(part: Part, inputs: Any, loss: Any, epochs: int, name: str) -> float:
    """So many epochs of our loop."""
    from compress.core.terminal.progress import SilentProgress
    from compress.profile.specs.training import TrainingSpec
    from compress.training.loop import train

    spec = TrainingSpec(epochs=epochs, batch_size=BATCH, learning_rate=1e-3, dropout=0.0)
    model = student()
    part.wait()
    began = time.perf_counter()
    train(
        model, inputs, lambda outputs, batch, indices: loss(outputs, indices), spec, lambda model: 0.0,
        work=part.work / name.replace(" ", "-").replace(":", ""), seed=0, precision="bf16", device=part.device,
        progress=SilentProgress(), name="speed",
    )  # fmt: skip
    part.wait()
    return time.perf_counter() - began


def trainer_seconds(part: Part, teacher: Any, inputs: Any, labels: Any, epochs: int) -> float:
    """transformers' Trainer whose loss runs the teacher, under its own bf16."""
    import torch
    from transformers import Trainer, TrainingArguments

    class Distilled(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **rest: Any) -> Any:
            inputs.pop("labels")
            outputs = model(**inputs)
            with torch.no_grad(), torch.autocast(part.device, torch.bfloat16):
                goals = teacher(**inputs).logits
            loss = kl(outputs.logits, goals)
            return (loss, outputs) if return_outputs else loss

    def collate(rows: list[int]) -> dict[str, Any]:
        batch = {name: torch.from_numpy(array) for name, array in inputs.batch(rows).items()}
        return {**batch, "labels": labels[rows]}

    arguments = TrainingArguments(
        output_dir=str(part.work / "trainer"), num_train_epochs=epochs, per_device_train_batch_size=BATCH, bf16=True,
        learning_rate=1e-3, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
        use_cpu=part.device == "cpu", remove_unused_columns=False,
    )  # fmt: skip
    trainer = Distilled(student(), arguments, train_dataset=list(range(len(inputs))), data_collator=collate)
    part.wait()
    began = time.perf_counter()
    trainer.train()
    part.wait()
    return time.perf_counter() - began
