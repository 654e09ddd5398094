"""The page's JavaScript makes of pixels what Python makes of them, run by node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.bundles.web import folder
from compress.data.images.framing import Framing
from compress.encoding.images import ImageFormat

NODE = shutil.which("node")
PAGE = Path(folder.__file__).with_name("page")
SCRIPT = """
import { readFileSync } from "node:fs";
const { frame, pixelInputs } = await import(process.argv[2]);
class Tensor { constructor(type, data, dims) { Object.assign(this, { data, dims }); } }
const answers = JSON.parse(readFileSync(0, "utf8")).map(({ pixels, height, width, image }) => {
  const seen = frame({ values: Uint8Array.from(pixels), height, width, channels: 3 }, image);
  const { data, dims } = pixelInputs(seen, image, "x", Tensor).x;
  return { values: Array.from(data), dims };
});
console.log(JSON.stringify(answers));
"""
FRAMINGS = [
    *(
        Framing(interpolation=name)
        for name in ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
    ),
    Framing("squash", (20, 17), "bicubic"),
    Framing("shortest", (15,), "bilinear", order="bgr"),
    Framing("shortest", (15, 19), "lanczos"),
    Framing("within", (14, 12), "bicubic", fit="pad"),
    Framing("within", (9, 30), "nearest"),
    Framing("none"),
]


@pytest.mark.skipif(NODE is None, reason="needs node")
@pytest.mark.parametrize("channels", [1, 3])
def test_a_page_sees_what_python_sees(channels: int, tmp_path: Path) -> None:
    assert NODE is not None
    random = np.random.default_rng(0)
    mean, std = tuple(random.uniform(0, 1, channels)), tuple(random.uniform(0.2, 1, channels))
    cases: list[tuple[ImageFormat, np.ndarray]] = [
        (
            ImageFormat((14, 13), channels, mean, std, framing),
            random.integers(0, 256, (*size, 3), np.uint8),
        )
        for framing in (FRAMINGS if channels == 3 else FRAMINGS[2:8:3])
        for size in ((14, 13), (5, 40), (61, 23), (2, 2), (97, 131), (60, 30), (40, 15))
    ]
    asked: list[dict[str, Any]] = [
        {
            "pixels": pixels.ravel().tolist(),
            "height": pixels.shape[0],
            "width": pixels.shape[1],
            "image": {**form.as_dict(), "columns_first": folder.columns_first()},
        }
        for form, pixels in cases
    ]
    script = tmp_path / "try.mjs"
    script.write_text(SCRIPT)
    command = [NODE, str(script), (PAGE / "images.mjs").as_uri()]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True)
    for (form, pixels), answer in zip(cases, json.loads(done.stdout), strict=True):
        expected = form.pixel_values(pixels)
        assert answer["dims"] == [1, *expected.shape]
        found = np.array(answer["values"], np.float32).reshape(expected.shape)
        np.testing.assert_array_equal(found, expected, err_msg=f"{form.framing} of {pixels.shape}")
