"""Language models of random weights, in the shape of SmolLM2-135M and of a Llama of 1.1 billion: reading a
prompt of 512 tokens, and writing token by token after it, in bf16 and in NF4 of bitsandbytes. `floor`: one
reading of the weights at the rate of a copy, which a token cannot be faster than. Then steps a second of
distilling the small one from the large, logits of the whole vocabulary, batches of 8 x 256 tokens, and of the
small one alone."""

from __future__ import annotations

from typing import Any

from cuda_parts.forward import ceilings
from cuda_parts.part import Part, digits, installed

SHAPES: dict[str, dict[str, int]] = {
    "135M": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
             "intermediate_size": 1536},
    "1.1B": {"hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
             "intermediate_size": 5632},
}  # fmt: skip
TOY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
}


def run(part: Part) -> None:
    installed("transformers")
    import torch

    _, copy = ceilings(part, torch.bfloat16)
    for name in SHAPES:
        for numbers in ("bf16", "NF4"):
            with part.case(model=name, numbers=numbers):
                generate(part, name, numbers, copy)
            part.free()
    with part.case(model="135M", numbers="distilled"):
        distil(part)


def llama(part: Part, name: str, dtype: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=256 if part.dry else 49152, **(TOY if part.dry else SHAPES[name]))
    with torch.device(part.device):
        return LlamaForCausalLM(config).to(dtype).eval()


def generate(part: Part, name: str, numbers: str, copy: float) -> None:
    import torch

    part.free()
    model = llama(part, name, torch.bfloat16)
    if numbers == "NF4":
        pack(model)
    weights = sum(one.nbytes for one in {id(one): one for one in model.parameters()}.values())
    prompt = torch.randint(0, 200, (1, 16 if part.dry else 512), device=part.device)
    with torch.inference_mode():
        reading = part.timed(lambda: model(input_ids=prompt, use_cache=True), seconds=0.5, least=5, warm=2)
        cache = model(input_ids=prompt, use_cache=True).past_key_values
        token = prompt[:, :1]
        writing = part.timed(
            lambda: model(input_ids=token, past_key_values=cache, use_cache=True), seconds=1.0
        )
    part.tell(
        model=name,
        numbers=numbers,
        **{
            "prompt tokens/s": digits(1e3 * prompt.shape[1] / reading.wall),
            "ms a token": digits(writing.wall),
            "GPU ms a token": None if writing.gpu is None else digits(writing.gpu),
            "tokens/s": digits(1e3 / writing.wall),
            "floor ms": digits(1e3 * weights / (copy / 1.0)),
            "weights MB": round(weights / 1e6, 1),
            "GPU MB": part.peak_mb(),
        },
    )


def pack(model: Any) -> None:
    """Give the layers of a model the weights that bitsandbytes makes of theirs, where they lie: on a GPU in no time."""
    installed("bitsandbytes")
    import bitsandbytes
    import torch

    for name, linear in list(model.named_modules()):
        if type(linear) is torch.nn.Linear and name != "lm_head":
            layer = bitsandbytes.nn.Linear4bit(
                linear.in_features, linear.out_features, False, compute_dtype=torch.bfloat16, quant_type="nf4"
            ).eval()
            layer.weight.data = linear.weight.data
            model.set_submodule(name, layer.to(linear.weight.device))


def distil(part: Part) -> None:
    import torch
    from torch.nn.functional import kl_div, log_softmax

    part.free()
    teacher, student = llama(part, "1.1B", torch.bfloat16), llama(part, "135M", torch.float32).train()
    shape = (2, 8) if part.dry else (8, 256)
    ids = torch.randint(0, 200, shape, device=part.device)
    optimizer = torch.optim.AdamW(student.parameters(), fused=True)

    def step(taught: bool) -> None:
        with torch.autocast(part.device, torch.bfloat16):
            logits = student(input_ids=ids).logits
            if taught:
                with torch.no_grad():
                    goals = log_softmax(teacher(input_ids=ids).logits.float(), -1)
                loss = kl_div(log_softmax(logits.float(), -1), goals, log_target=True, reduction="batchmean")
            else:
                loss = torch.nn.functional.cross_entropy(
                    logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten()
                )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for taught in (False, True):
        took = part.timed(lambda taught=taught: step(taught), seconds=1.5, least=5, warm=3)
        way = "135M from a live 1.1B" if taught else "135M alone"
        part.tell(
            step=way,
            **{
                "steps/s": digits(1e3 / took.wall),
                "tokens/s": digits(1e3 * ids.numel() / took.wall),
                "GPU MB": part.peak_mb(),
            },
        )
