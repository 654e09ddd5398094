"""Saved ONNX files stand on their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from compress.lowering.files import save_onnx
from compress.runtimes.runner import open_session
from tests.tiny_decoders import lowered_decoder, tiny_decoder


def test_weights_that_lay_beside_a_file_come_along(tmp_path: Path):
    whole = lowered_decoder(tiny_decoder("llama"), tmp_path)
    ir.save(ir.load(whole), tmp_path / "split.onnx", external_data="split.data")
    model = ir.load(tmp_path / "split.onnx")
    (tmp_path / "elsewhere").mkdir()
    path = save_onnx(model, tmp_path / "elsewhere")
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    first, second = (ir.load(file).graph.initializers for file in (whole, path))
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value.const_value.numpy(), second[name].const_value.numpy())
    assert open_session(str(path))
