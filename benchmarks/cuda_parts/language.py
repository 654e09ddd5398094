"""Language models of random weights, in the shape of SmolLM2-135M and of a Llama of 1.1 billion, run as
`compress` measures them: a prompt of 512 tokens is read, and a token is written behind it; ids go to the GPU
and logits come back within the time. `GPU ms a token` is without that. NF4 is of bitsandbytes: `between` says
what the other layers and the sums are in, FP32 as `compress` has it. `floor ms`: one reading of the weights at
the rate of a copy, which a token cannot be faster than. Then steps of distilling the small one from the large
through the training loop of `compress`, bf16, 8 x 256 tokens: by the next token alone, by the 64 likeliest
words of the teacher as they were kept, and with the teacher run in every step; and answers written to many
prompts at once. INT4 of onnxruntime is the file that `compress` makes, its floats turned into FP16, which
alone onnxruntime attends in on a GPU; the cache stays there."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cuda_parts.forward import ceilings
from cuda_parts.part import Part, Skipped, Timing, digits, installed
from cuda_parts.profiles import has_gpu_build

SHAPES: dict[str, dict[str, Any]] = {
    "135M": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
             "intermediate_size": 1536, "tie_word_embeddings": True},
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
WAYS = (("135M", "FP32"), ("135M", "bf16"), ("135M", "NF4 between FP32"), ("135M", "NF4 between bf16"),
        ("1.1B", "FP32"), ("1.1B", "bf16"), ("1.1B", "NF4 between bf16"))  # fmt: skip
TOGETHER = (1, 16, 64)
"""Answers that are written at once."""


def run(part: Part) -> None:
    installed("transformers", "pydantic")
    import torch

    _, copy = ceilings(part, torch.bfloat16)
    for name, numbers in WAYS:
        with part.case(model=name, numbers=numbers):
            generate(part, name, numbers, copy)
        part.free()
    with part.case(step="distillation"):
        distil(part)
    part.free()
    with part.case(what="answers at once"):
        answer(part)
    part.free()
    with part.case(model="135M", numbers="INT4 of onnxruntime"):
        in_four_bits(part, copy)


def words(part: Part) -> int:
    return 2048 if part.dry else 49152


def llama(part: Part, name: str, dtype: Any = None) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=words(part), **{**SHAPES[name], **(TOY if part.dry else {})})
    with torch.device(part.device):
        return LlamaForCausalLM(config).to(dtype or torch.float32).eval()


def generate(part: Part, name: str, numbers: str, copy: float) -> None:
    """Reading and writing, as the child process of a measurement runs them."""
    import torch

    from compress.runtimes.runner import LOGIT_POSITIONS
    from compress.runtimes.torch_decoder import TorchDecoder
    from compress.runtimes.torch_worker import TorchModel

    part.free()
    model = llama(part, name, torch.bfloat16 if numbers.endswith("bf16") else torch.float32)
    if numbers.startswith("NF4"):
        pack(model)
    weights = sum(one.nbytes for one in {id(one): one for one in model.parameters()}.values())
    ids = np.random.default_rng(0).integers(0, words(part), (1, 16 if part.dry else 512))
    length = ids.shape[1]
    read = {"input_ids": ids, "attention_mask": np.ones((1, length), np.int64),
            LOGIT_POSITIONS: np.array([[length - 1]])}  # fmt: skip
    write = {"input_ids": ids[:, -1:].copy(), "attention_mask": np.ones((1, length + 1), np.int64),
             LOGIT_POSITIONS: np.array([[0]])}  # fmt: skip
    decoder = TorchDecoder(model)
    runs = TorchModel(model, part.device, decoder)
    reading = part.timed(lambda: runs(read), seconds=0.4, least=5, warm=2)
    writing = part.timed(lambda: runs(write), seconds=0.8)
    there = {key: torch.from_numpy(array).to(part.device) for key, array in write.items()}
    with torch.inference_mode():
        alone = part.timed(lambda: decoder(there), seconds=0.4)
    part.tell(model=name, numbers=numbers, **rates(length, reading, writing, weights, copy),
              **{"GPU ms a token": alone.gpu and digits(alone.gpu), "GPU MB": part.peak_mb()})  # fmt: skip


def rates(length: int, reading: Timing, writing: Timing, weights: int, copy: float) -> dict[str, float]:
    return {
        "prompt tokens/s": digits(1e3 * length / reading.wall),
        "ms a token": digits(writing.wall),
        "tokens/s": digits(1e3 / writing.wall),
        "floor ms": digits(1e3 * weights / copy),
        "weights MB": round(weights / 1e6, 1),
    }


def pack(model: Any) -> None:
    """Give the layers of a model the weights that bitsandbytes makes of theirs, where they lie: on a GPU in no time."""
    installed("bitsandbytes")
    import bitsandbytes
    import torch

    for name, linear in list(model.named_modules()):
        if type(linear) is torch.nn.Linear and name != "lm_head":
            layer = bitsandbytes.nn.Linear4bit(
                linear.in_features, linear.out_features, False, quant_type="nf4"
            ).eval()
            layer.weight.data = linear.weight.data
            model.set_submodule(name, layer.to(linear.weight.device))


def answer(part: Part) -> None:
    """Greedy answers of 32 tokens to prompts of 64, as `distill: {sequence: ...}` lets a teacher write."""
    from compress.runtimes.decoding import stream
    from compress.runtimes.torch_rows import TorchRows

    model = llama(part, "135M")
    most, random = 4 if part.dry else 32, np.random.default_rng(0)
    for rows in TOGETHER:
        prompts = random.integers(0, words(part), (rows, 8 if part.dry else 64)).tolist()
        took = part.timed(
            lambda prompts=prompts: list(stream(TorchRows(model), prompts, most)),
            seconds=0.1, least=2, warm=1,
        )  # fmt: skip
        part.tell(
            model="135M", numbers="FP32", together=rows, **{"tokens/s": digits(1e3 * rows * most / took.wall)}
        )


def distil(part: Part) -> None:
    """Steps of the training loop: who teaches is all that differs."""
    from compress.core.terminal.progress import SilentProgress
    from compress.losses.logits.spec import LogitsLoss
    from compress.losses.next_token.spec import NextTokenLoss
    from compress.store.flat import Ragged
    from compress.tasks.causal_lm.text.windows import WindowInputs
    from compress.training.objective.weighted_losses import objective_between
    from compress.training.signals.answers import SignalSource, from_cache, from_model, no_signals
    from compress.training.signals.teachers import cached_signals

    steps, batch, length = (3, 2, 8) if part.dry else (40, 8, 256)
    count, random = steps * batch, np.random.default_rng(0)
    inputs = WindowInputs(
        [random.integers(0, words(part), length) for _ in range(count)],
        ("input_ids", "attention_mask"),
        0,
        target_mask=Ragged.of([np.arange(length) > 0] * count),
        documents=np.arange(count),
        target_bytes=np.full(count, length, np.int64),
    )
    read = part.work / "language"
    read.mkdir(exist_ok=True)
    (read / "task.json").write_text('{"task": "causal-lm"}')
    teacher = llama(part, "1.1B").requires_grad_(False)
    found: dict[str, float] = {}
    for way in ("next token", "kept signals", "live teacher"):
        student = llama(part, "135M")
        taught = way != "next token"
        objective = objective_between(
            [LogitsLoss(temperature=1.0) if taught else NextTokenLoss()],
            student,
            (read, inputs),
            (teacher, inputs) if taught else None,
            seed=0,
        )
        answers: SignalSource = no_signals
        if way == "kept signals":
            began = time.perf_counter()
            signals = cached_signals(
                lambda: teacher, inputs, objective.teacher_needs, part.work / "signals", teacher_digest="llama",
                device=part.device, precision="bf16", progress=SilentProgress(),
            )  # fmt: skip
            rate = count * length / (time.perf_counter() - began)
            part.tell(step="asking the teacher once", **{"tokens/s": digits(rate)})
            answers = from_cache(signals)
        elif taught:
            answers = from_model(teacher, objective.teacher_needs, part.device, inputs=inputs)
        part.free()
        seconds = step_seconds(part, student, objective.to(part.device), answers, inputs, steps, batch)
        found[way] = seconds
        part.tell(
            step=f"135M, {way}",
            **{
                "steps/s": digits(1 / seconds),
                "tokens/s": digits(batch * length / seconds),
                "GPU MB": part.peak_mb(),
            },
        )
    for other in ("next token", "live teacher"):
        part.tell(ratio=f"a step: kept signals / {other}", value=digits(found["kept signals"] / found[other]))


def step_seconds(
    part: Part, student: Any, objective: Any, answers: Any, inputs: Any, steps: int, batch: int
) -> float:
    """Seconds of a step of the training loop, the first ones left out; the GPU is waited for at both ends alone."""
    from compress.core.terminal.progress import SilentProgress
    from compress.profile.specs.training import TrainingSpec
    from compress.training.loop import train
    from compress.training.objective.batch_loss import batch_loss
    from compress.training.objective.training_module import TrainingModule

    module, ticks, first = TrainingModule(student, objective), list[float](), steps // 3
    inner = batch_loss(module, answers, np.zeros(len(inputs), np.int64))

    def loss(outputs: Any, given: dict[str, Any], indices: Any) -> Any:
        if len(ticks) in (first, steps - 1):
            part.wait()
        ticks.append(time.perf_counter())
        return inner(outputs, given, indices)

    train(
        module, inputs, loss, TrainingSpec(epochs=1, batch_size=batch, learning_rate=1e-5), lambda model: 0.0,
        work=part.work / f"steps-{id(module)}", seed=0, precision="bf16", device=part.device, progress=SilentProgress(),
        name="timed", checkpoint_seconds=1e9,
    )  # fmt: skip
    return float(ticks[-1] - ticks[first]) / (steps - 1 - first)


def in_four_bits(part: Part, copy: float) -> None:
    """Blocks of 32 and 128: wider ones have no kernel of their own for one token."""
    installed("onnx", "onnxruntime", "onnxscript")
    if not part.dry and not has_gpu_build():
        raise Skipped("onnxruntime here is the CPU build")
    from compress.lowering.decoder.graph import decoder_graph
    from compress.lowering.decoder.layout import layout_of
    from compress.lowering.files import save_onnx

    model = llama(part, "135M").cpu()
    floats = part.work / "float"
    floats.mkdir(exist_ok=True)
    save_onnx(decoder_graph(layout_of(model.config), model.state_dict()), floats)
    for block in (32, 128):
        name = f"INT4 of onnxruntime, blocks of {block}"
        with part.case(model="135M", numbers=name):
            file = four_bits(floats, part.work / f"int4-{block}", block)
            session = opened(part, file)
            ids = np.random.default_rng(0).integers(0, words(part), (1, 16 if part.dry else 512))
            runs = bound(part, session, ids.shape[1] + 1)
            read, write = partial(runs, ids, ids.shape[1]), partial(runs, ids[:, -1:], ids.shape[1] + 1)
            reading = part.timed(read, seconds=0.4, least=5, warm=2)
            difference = apart(file.with_name("model.onnx"), ids, read())
            writing = part.timed(write, seconds=0.8)
            part.tell(
                model="135M",
                numbers=name,
                **rates(ids.shape[1], reading, writing, file.stat().st_size, copy),
                **{"from FP32 between": digits(difference), "left to the CPU": left_to_the_cpu(session)},
            )


def apart(file: Path, ids: Any, said: Any) -> float:
    """How far logits are from those of the file in FP32, on the CPU: as a share of the largest."""
    from compress.runtimes.runner import LOGIT_POSITIONS, CachedSession, open_session

    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    wanted = CachedSession(open_session(str(file)))(
        {**batch, LOGIT_POSITIONS: np.array([[ids.shape[1] - 1]])}
    )
    return float(np.abs(said - wanted).max() / np.abs(wanted).max())


def four_bits(floats: Path, out: Path, block: Any) -> Path:
    """The 4-bit file of a decoder's, its floats and its cache in FP16; the logits stay in FP32."""
    import onnx
    import onnx_ir as ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    from compress.lowering.files import save_onnx
    from compress.passes.quantize.weight_only.methods import quantize_weights
    from compress.passes.quantize.weight_only.spec import WeightOnlySpec

    out.mkdir(exist_ok=True)
    source = floats / "model.onnx"
    model = ir.load(source)
    quantize_weights(model, source, WeightOnlySpec(method="rtn", block_size=block), lambda: iter(()), out)
    save_onnx(model, out)
    half = convert_float_to_float16(
        onnx.load(out / "model.onnx"), keep_io_types=["logits"], disable_shape_infer=True
    )
    onnx.save(half, out / "half.onnx")
    return out / "half.onnx"


def opened(part: Part, file: Path) -> Any:
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    first = [] if part.dry else ["CUDAExecutionProvider"]
    return onnxruntime.InferenceSession(str(file), options, providers=[*first, "CPUExecutionProvider"])


def bound(part: Part, session: Any, room: int) -> Callable[[Any, int], Any]:
    """From new tokens (1, n), and how many there are with them, to the logits of the last; the cache stays there."""
    import onnxruntime

    from compress.runtimes.runner import LOGIT_POSITIONS, PAST_PREFIX, PRESENT_PREFIX

    binding = session.io_binding()
    held = []
    for node in session.get_inputs():
        if node.name.startswith(PAST_PREFIX):
            empty = np.zeros((1, node.shape[1], room, node.shape[3]), np.float16)
            held.append(onnxruntime.OrtValue.ortvalue_from_numpy(empty, part.device, 0))
            binding.bind_ortvalue_input(node.name, held[-1])
            binding.bind_ortvalue_output(node.name.replace(PAST_PREFIX, PRESENT_PREFIX, 1), held[-1])

    def run(ids: Any, total: int) -> Any:
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(ids))
        binding.bind_cpu_input("attention_mask", np.ones((1, total), np.int64))
        binding.bind_cpu_input(LOGIT_POSITIONS, np.array([[ids.shape[1] - 1]]))
        binding.bind_output("logits", "cpu")
        session.run_with_iobinding(binding)
        # It was bound last; the others are the cache.
        return binding.get_outputs()[-1].numpy()

    return run


def left_to_the_cpu(session: Any) -> str:
    """The kinds of operators that no provider for a GPU took, with how many."""
    found: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        if part.ep_name == "CPUExecutionProvider":
            for node in part.get_nodes():
                found[node.op_type] = found.get(node.op_type, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items())) or "nothing"
