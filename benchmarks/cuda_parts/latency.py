"""torch alone, without what `compress measure` adds: the teacher (six layers) and a student of its first
three, texts of 128 tokens that lie on the GPU already. INT8 is LLM.int8(), NF4 has double quantization, both
by bitsandbytes. `GPU MB` is the most that torch held, `weights MB` what the model takes at rest."""

from __future__ import annotations

from typing import Any

from cuda_parts.part import Part, installed, located

NUMBERS = ("FP32", "FP16", "bf16", "TF32", "INT8", "NF4")


def run(part: Part) -> None:
    installed("transformers")
    for who, layers in (("teacher", 6), ("student", 3)):
        for numbers in NUMBERS:
            with part.case(model=who, numbers=numbers):
                one(part, who, layers, numbers)
            part.free()
    # It takes longer than all the others together.
    with part.case(model="teacher", numbers="FP16 compiled"):
        one(part, "teacher", 6, "FP16 compiled")


def one(part: Part, who: str, layers: int, numbers: str) -> None:
    import torch

    part.free()
    torch.backends.cuda.matmul.allow_tf32 = numbers == "TF32"
    model: Any = network(part, layers)
    if numbers in ("INT8", "NF4"):
        installed("bitsandbytes")
        model = packed(model, numbers, part)
    else:
        model = model.to(
            part.device,
            {"FP16": torch.float16, "bf16": torch.bfloat16}.get(numbers.split()[0], torch.float32),
        )
    weights = round(torch.cuda.memory_allocated() / 1e6, 1) if part.device == "cuda" else None
    compiles = numbers.endswith("compiled") and not part.dry
    call = torch.compile(model, mode="reduce-overhead", dynamic=False) if compiles else model
    for size in (1, 8) if part.dry else (1, 8, 64):
        ids = torch.randint(1000, 2000, (size, 8 if part.dry else 128), device=part.device)
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            took = part.timed(
                lambda ids=ids, mask=mask: call(input_ids=ids, attention_mask=mask), seconds=0.3
            )
        part.tell(
            model=who,
            numbers=numbers,
            batch=size,
            **took.row(),
            **{"weights MB": weights, "GPU MB": part.peak_mb()},
        )


def network(part: Part, layers: int) -> Any:
    """A classifier of five classes with the teacher's first layers."""
    from pathlib import Path

    from transformers import AutoModelForSequenceClassification

    folder = Path(part.model) if part.dry else located(part.model)
    found = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=5, num_hidden_layers=layers)
    return found.eval()


def packed(model: Any, numbers: str, part: Part) -> Any:
    """The model with its linear layers as bitsandbytes stores them, on the device."""
    import tempfile
    from pathlib import Path

    from compress.models.io.low_bit import (
        LowBit,
        linear_layers,
        pack_layers,
        replace_layers,
        to_device,
        unpack_layers,
        write_low_bit,
    )

    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    low_bit = LowBit(
        "int8" if numbers == "INT8" else "nf4", numbers == "NF4", tuple(linear_layers(model, weights))
    )
    with tempfile.TemporaryDirectory() as folder:
        write_low_bit(low_bit, Path(folder))
        replace_layers(model, unpack_layers(model, pack_layers(weights, low_bit), Path(folder)))
    return to_device(model, part.device)
