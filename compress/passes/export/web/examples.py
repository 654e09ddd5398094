"""The examples of a page: the golden ones of its bundle, with the outputs that Python computes for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.artifacts import TASK, TOKENIZER
from compress.files import copy_file, make_folder, write_json
from compress.inside import inside
from compress.passes.export.web.tokenizing import AWKWARD
from compress.reading import read_mapping
from compress.runtimes.runner import encode, load_tokenizer, open_predictor

CHECK = "check.json"
CHECK_IMAGES = "check"


@dataclass(frozen=True)
class PageExamples:
    """What a trial compares: texts with their ids (the examples' first), images as tensors, and the outputs."""

    texts: list[dict[str, Any]]
    images: list[dict[str, Any]]
    outputs: list[list[float]]
    tolerance: float


def write_examples(bundle: Path, out: Path, golden_file: Path) -> PageExamples:
    """Write `check.json` (and the images that it names) into the folder `out` of a page."""
    golden = read_mapping(golden_file)
    predictor = open_predictor(str(bundle))
    texts: list[str] = []
    written: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    outputs: list[list[float]] = []
    for number, example in enumerate(golden["examples"]):
        if "image" in example:
            name = f"{CHECK_IMAGES}/{number:03d}.png"
            make_folder(out / CHECK_IMAGES)
            image = inside(bundle, example["image"], where=str(golden_file))
            copy_file(image, out / name)
            (pixels,) = predictor.encode([str(image)]).values()
            images.append({"values": pixels.ravel().tolist(), "shape": list(pixels.shape)})
            shown, item = {"image": name}, str(image)
        else:
            shown, item = {"text": example["text"]}, example["text"]
            texts.append(item)
        outputs.append([float(value) for value in predictor.outputs([item])[0]])
        written.append({**shown, "output": outputs[-1]})
    write_json(out / CHECK, {"tolerance": golden["tolerance"], "examples": written})
    return PageExamples(_with_ids(bundle, texts), images, outputs, golden["tolerance"])


def _with_ids(bundle: Path, texts: list[str]) -> list[dict[str, Any]]:
    """The texts, and awkward ones after them, with the ids that they have in Python."""
    if not (bundle / TOKENIZER).is_file():
        return []
    task = read_mapping(bundle / TASK)
    tokenizer = load_tokenizer(str(bundle), task["max_length"], task.get("texts", {}).get("cut", "right"))
    return [
        {
            "text": text,
            "ids": encode(tokenizer, [text], {**task, "input_names": ["input_ids"]})["input_ids"][0].tolist(),
        }
        for text in (*texts, *AWKWARD)
    ]
