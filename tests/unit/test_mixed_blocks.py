"""Weights in 8 bits among those in 4: what is measured of each, and what is chosen within a size."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from compress.core.errors import PassError
from compress.core.terminal.progress import SilentProgress
from compress.encoding.inputs import Batch
from compress.lowering import step as lower
from compress.passes.quantize import step as quantize
from compress.passes.quantize.layers import Layer, weighted_layers
from compress.passes.quantize.weight_only import mixed
from compress.passes.quantize.weight_only.blocks import quantize_blocks
from compress.passes.quantize.weight_only.mixed import Sensitivity, sensitivities
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from tests import tiny_language
from tests.steps import context, run
from tests.tiny_decoders import lowered_decoder, tiny_decoder
from tests.unit.test_decoder_quantization import batches, quantized

SPEC = WeightOnlySpec.model_validate(
    {"bits": 4, "block_size": 32, "symmetric": False, "mixed": {"size_mb": 1}, "embeddings": 4}
)


def few() -> Iterator[Batch]:
    return islice(batches(), 2)


def mean_square(reference: np.ndarray, outputs: np.ndarray) -> float:
    return float(np.square(reference - outputs).mean())


def measured(file: Path, folder: Path, spec: WeightOnlySpec = SPEC) -> dict[str, Sensitivity]:
    model = ir.load(file)
    chosen: list[Layer] = list(weighted_layers(model.graph))
    found = sensitivities(model, chosen, spec, few, mean_square, folder, SilentProgress())
    return {one.layers[0]: one for one in found}


def size_of(file: Path) -> int:
    return sum(
        value.const_value.nbytes for value in ir.load(file).graph.initializers.values() if value.const_value
    )


@pytest.mark.parametrize(("items", "read"), [("image", 64), ("text", 1024)])
def test_an_image_is_as_many_tokens_as_the_model_makes_of_it(tmp_path: Path, monkeypatch, items, read):
    asked = []

    def note(_ctx, _source, count, tokens):
        asked.append((count, tokens))
        raise StopIteration

    monkeypatch.setattr(mixed, "calibration_batches", note)
    monkeypatch.setattr(mixed, "typical_rows", lambda *_: 16)
    ctx = SimpleNamespace(task=SimpleNamespace(kind=SimpleNamespace(items=items)), work=tmp_path)
    with pytest.raises(StopIteration):
        mixed.with_eight_bits(ctx, SimpleNamespace(path=tmp_path), SPEC)
    assert asked == [(read, read)]


@pytest.mark.parametrize("name", ["llama, tied with biases", "qwen3"])
def test_each_weight_is_measured_alone(tmp_path: Path, name: str):
    model = tiny_decoder(name)
    # A weight that lies on its grid loses nothing by it.
    weight = model.get_parameter("model.layers.1.mlp.down_proj.weight").data
    weight.copy_(weight.new_tensor(quantize_blocks(weight.numpy(), 32, 4, False).dequantized()))
    file = lowered_decoder(model, tmp_path)
    found = measured(file, tmp_path)
    tied = model.config.tie_word_embeddings
    assert len(found) == 3 * 4 + (1 if tied else 2)
    assert found.pop("layers.1.feed_out").divergence == pytest.approx(0, abs=1e-9)
    assert min(one.divergence for one in found.values()) > 1e-5
    assert found["words"].layers == (("words", "head") if tied else ("words",))


def test_bytes_are_those_of_the_file(tmp_path: Path):
    file = lowered_decoder(tiny_decoder("qwen3"), tmp_path)
    keys = {"bits": 4, "method": "rtn", "block_size": 32, "symmetric": False, "embeddings": 4}
    least = size_of(quantized(file, tmp_path, **keys))
    for name, one in measured(file, tmp_path).items():
        more = size_of(quantized(file, tmp_path, **keys, eight_bits=(name,)))
        assert one.extra_bytes == more - least, name


def test_a_size_is_used_up_by_what_loses_most(tmp_path: Path):
    source, task, data = tiny_language.taught(tmp_path / "language")
    keys = {"bits": 4, "block_size": 32, "embeddings": 4, "method": "rtn"}

    def made(name: str, **more: object) -> tuple[float, dict[str, object]]:
        spec = WeightOnlySpec.model_validate({**keys, **more})
        folder, result = run(quantize, context(tmp_path / name, spec, {"model": lowered}, task, data))
        return folder.size_mb, dict(result.facts)

    lowered, _ = run(lower, context(tmp_path / "lower", SPEC, {"model": source}, task, data))
    least, _ = made("least")
    most, _ = made("most", eight_bits=("*",))
    size, facts = made("mixed", mixed={"size_mb": least + 0.5 * (most - least), "tokens": 256})
    assert least < size <= least + 0.5 * (most - least)
    weights = facts["eight_bits"]["weights"]
    eight = {one["layer"] for one in weights if one["eight_bits"]}
    assert 0 < len(eight) < len(weights) == 2 * 4 + 1
    assert {one["layer"] for one in facts["blocks"] if one["bits"] == 8} == eight
    assert all(one["divergence"] >= 0 for one in weights)
    with pytest.raises(PassError, match="with every weight in 4 bits the file has"):
        made("nothing", mixed={"size_mb": 0.5 * least})
