"""The forward pass of all-MiniLM-L6-v2 in FP16, 64 texts of 128 tokens: the operations that it must do, the
rate that it reaches, and what holds it up. `busy`: the share of the time in which some kernel ran, by torch's
profiler; the rest is the host, which launches them. A CUDA graph launches all of them at once. `floor`: what
the products alone would take at the rate of the product of two large matrices here, and what one reading of
the weights and one writing and reading of every layer's activations would take at the rate of a copy."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import Any

from cuda_parts.latency import network
from cuda_parts.part import Part, digits, installed


def run(part: Part) -> None:
    installed("transformers")
    import torch

    size, tokens = (2, 8) if part.dry else (64, 128)
    dtype = torch.float32 if part.dry else torch.float16
    model = network(part, 6).to(part.device, dtype)
    ids = torch.randint(1000, 2000, (size, tokens), device=part.device)
    flops, moved = work(model.config, size, tokens)
    part.tell(what="operations of a forward pass", value=f"{digits(flops / 1e9)} GFLOP")
    rate, copy = ceilings(part, dtype)
    part.tell(
        what="floor",
        value=f"{digits(1e3 * flops / rate)} ms of products, {digits(1e3 * moved / copy)} ms of memory",
    )

    def tell(way: str, call: Any) -> None:
        with torch.inference_mode():
            took = part.timed(call, seconds=1.0)
        used = took.gpu or took.wall
        share = digits(flops / (used / 1e3) / rate)
        part.tell(
            way=way, **took.row(), **{"TFLOP/s": digits(flops / used / 1e9), "of a large product": share}
        )

    # Without a mask no kernel asks which tokens are real, as in a batch of texts of one length.
    plain = partial(model, input_ids=ids)
    masked = partial(model, input_ids=ids, attention_mask=torch.ones_like(ids))
    with part.case(way="as it is"):
        tell("as it is", plain)
    with part.case(way="with a mask"):
        tell("with a mask", masked)
    if part.device == "cuda":
        with part.case(way="CUDA graph"):
            tell("CUDA graph", graphed(model, ids).replay)
    with part.case(way="profile"):
        profile(part, plain)
    if part.device == "cuda":
        with part.case(way="torch.compile"):
            compiled = torch.compile(model, dynamic=False)
            tell("torch.compile", lambda: compiled(input_ids=ids))


def work(config: Any, size: int, tokens: int) -> tuple[float, float]:
    """Floating-point operations of the products, and bytes of weights and activations in FP16."""
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    weights = layers * (4 * hidden * hidden + 2 * hidden * inner)
    attention = layers * 2 * tokens * hidden
    values = layers * size * tokens * (8 * hidden + 2 * inner)
    return 2.0 * size * tokens * (weights + attention), 2.0 * (weights + 2 * values)


def ceilings(part: Part, dtype: Any) -> tuple[float, float]:
    """Operations a second of a large product, and bytes a second of a large copy."""
    import torch

    width, length = (64, 2**12) if part.dry else (8192, 2**29)
    left, right = (torch.randn(width, width, device=part.device).to(dtype) for _ in range(2))
    product = part.timed(lambda: left @ right, seconds=0.3)
    numbers = torch.rand(length, device=part.device)
    target = torch.empty_like(numbers)
    copy = part.timed(lambda: target.copy_(numbers), seconds=0.3)
    return 2e3 * width**3 / (product.gpu or product.wall), 2e3 * numbers.nbytes / (copy.gpu or copy.wall)


def graphed(model: Any, ids: Any) -> Any:
    """A CUDA graph of one forward pass."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.inference_mode():
        for _ in range(3):
            model(input_ids=ids)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.inference_mode():
        model(input_ids=ids)
    return graph


def profile(part: Part, call: Any) -> None:
    """What kernels the time goes to."""
    import time

    import torch
    from torch.profiler import ProfilerActivity

    count = 2 if part.dry else 20
    activities = [ProfilerActivity.CUDA if part.device == "cuda" else ProfilerActivity.CPU]
    with torch.inference_mode():
        call()
        part.wait()
        with torch.profiler.profile(activities=activities) as profiler:
            began = time.perf_counter()
            for _ in range(count):
                call()
            part.wait()
            wall = time.perf_counter() - began
    found = profiler.key_averages()
    time_of = attrgetter("self_device_time_total" if part.device == "cuda" else "self_cpu_time_total")
    total = sum(time_of(one) for one in found)
    part.tell(
        what="busy",
        value=f"{total / 1e6 / wall:.0%} of {digits(1e3 * wall / count)} ms, while it is profiled",
    )
    for one in sorted(found, key=time_of, reverse=True)[:8]:
        part.tell(
            kernel=one.key[:70], share=f"{time_of(one) / max(total, 1e-9):.1%}", calls=one.count // count
        )
