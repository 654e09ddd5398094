"""The probe: what is decided from flags and times, and that the times are taken."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from compress.core.numerics import int8_saturates, reduced_range
from compress.data.splits import Examples
from compress.lowering.graph import tidy
from compress.lowering.patches import patches_to_matmul
from compress.passes.quantize.int8.affine import REDUCED_LIMIT, UINT8_LEVELS, quantize_columns
from compress.passes.quantize.int8.gain.probe import (
    Probe,
    ShapeTiming,
    probe,
    shapes_of,
    typical_rows,
    warning,
)
from compress.passes.quantize.layers import weighted_layers
from compress.profile.schema import TargetSpec
from compress.targets.local import resolve
from tests.unit.test_lowering_graphs import normal, patches
from tests.unit.test_quantize_graphs import mlp


@pytest.mark.parametrize(
    ("flags", "architecture", "overflows"),
    [
        (["avx2"], "x86_64", True),
        (["avx2", "avx512f"], "AMD64", True),
        ([], "x86_64", True),
        (["avx512f", "avx512_vnni"], "x86_64", False),
        (["avx2", "avx_vnni"], "x86_64", False),
        (["amx_int8"], "x86_64", False),
        ([], "aarch64", False),
        (["asimddp"], "arm64", False),
    ],
)
def test_x86_without_vnni_overflows(flags, architecture, overflows):
    assert int8_saturates(flags, architecture) is overflows


def test_asked_for_is_asked_for():
    assert reduced_range(True) is True
    assert reduced_range(False) is False


def test_two_products_of_a_reduced_weight_fit_into_16_bits():
    assert 2 * UINT8_LEVELS * REDUCED_LIMIT <= 2**15 - 1 < 2 * UINT8_LEVELS * (REDUCED_LIMIT + 1)
    weight = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    reduced = quantize_columns(weight, limit=REDUCED_LIMIT)
    assert np.abs(reduced.values.astype(int)).max() == REDUCED_LIMIT
    assert np.abs(reduced.values * reduced.scales - weight).max() <= reduced.scales.max() / 2 + 1e-6


def found(flags: tuple[str, ...], *times: tuple[float, float]) -> Probe:
    return Probe(flags, 11, tuple(ShapeTiming(384, 384, 6, *pair) for pair in times))


def test_the_speedup_is_that_of_all_products():
    one = Probe((), 1, (ShapeTiming(4, 4, 3, 1.0, 0.5), ShapeTiming(4, 8, 1, 3.0, 0.5)))
    assert one.speedup == pytest.approx(6 / 2)
    assert Probe((), 1, ()).speedup is None


@pytest.mark.parametrize(
    ("probed", "message"),
    [
        (found(("avx512_vnni",), (3.0, 1.0)), None),
        (found(("avx2",), (3.0, 1.0)), None),
        (
            found(("avx512_vnni",), (1.0, 1.25)),
            "8-bit products of this model's shapes run 0.80 times as fast as FP32 on this machine (11 rows): "
            "expect a smaller file, not a faster model",
        ),
        (
            found(("avx2",), (1.0, 1.0)),
            "8-bit products of this model's shapes run 1.00 times as fast as FP32 on this machine (11 rows); "
            "its processor has no INT8 dot-product instructions (it has avx2): "
            "expect a smaller file, not a faster model",
        ),
        (found(("amx_int8",)), None),
        (
            found(()),
            "this machine's processor has no INT8 dot-product instructions: INT8 may be no faster than FP32",
        ),
    ],
)
def test_the_warning(probed, message):
    assert warning(probed) == message


def test_an_image_has_as_many_rows_as_the_model_makes_of_it(tmp_path):
    model = patches()
    assert patches_to_matmul(model) == 1
    tidy(model)
    ir.save(model, tmp_path / "model.onnx")
    images = SimpleNamespace(
        lengths=np.ones(3, np.int64), batch=lambda which: {"x": normal(len(which), 3, 8, 8)}
    )
    task = SimpleNamespace(kind=SimpleNamespace(items="image"), encode=lambda *_: images)
    data = SimpleNamespace(train=Examples.unlabelled(["one", "two", "three"]))
    context = SimpleNamespace(task=task, data=data, work=tmp_path)
    assert typical_rows(context, SimpleNamespace(path=tmp_path)) == 16


def test_every_shape_is_timed():
    shapes = shapes_of(list(weighted_layers(mlp().graph)))
    assert shapes == {(32, 48): 1, (48, 32): 1}
    target = resolve(TargetSpec())
    timed = probe(shapes, 5, target)
    assert timed.flags == tuple(target.description["cpu"]["flags"])
    assert {(one.inputs, one.outputs) for one in timed.timings} == set(shapes)
    assert all(one.float_ms > 0 and one.integer_ms > 0 for one in timed.timings)
    assert timed.facts()["rows"] == 5
    assert timed.facts()["speedup"] > 0


def test_the_most_expensive_shapes_come_first_and_no_shape_is_no_time():
    target = resolve(TargetSpec())
    timed = probe({(16, 16): 1, (64, 64): 2, (32, 32): 3}, 5, target, max_shapes=2)
    assert [(one.inputs, one.layers) for one in timed.timings] == [(64, 2), (32, 3)]
    assert probe({}, 5, target).speedup is None
