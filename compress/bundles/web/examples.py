"""Examples of a web page: the bundle's golden inputs with reference outputs computed in Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.bundles.layout import GOLDEN
from compress.bundles.web.tokenizing import HARD_TEXTS
from compress.core.artifacts import TASK, TOKENIZER
from compress.core.disk.files import copy_file, make_folder, write_json
from compress.core.disk.reading import read_mapping
from compress.core.disk.safe_paths import path_inside
from compress.runtimes.runner import Predictor, encode, load_tokenizer, open_predictor, read_image

CHECK = "check.json"
CHECK_IMAGES = "check"


@dataclass(frozen=True)
class PageExamples:
    """References for the trial of a page: texts with token ids (the examples first), images with tensors, and outputs.

    For a language model: `prompts` with their outputs, and texts with their token ids and the decoded text.
    """

    texts: list[dict[str, Any]]
    images: list[dict[str, Any]]
    outputs: list[list[float]]
    tolerance: float
    prompts: list[list[int]] = field(default_factory=list)


def write_prompts(bundle: Path, out: Path) -> PageExamples:
    """Write `check.json` of a language model: prompts as token ids, with the golden outputs computed in Python."""
    golden = read_mapping(bundle / GOLDEN)
    predictor = open_predictor(str(bundle))
    items = [example["text"] for example in golden["examples"]]
    outputs = [[float(value) for value in predictor.outputs([item])[0]] for item in items]
    prompts = [predictor.prompt_of(item)[-predictor.task["max_length"] :] for item in items]
    examples = [{"ids": ids, "output": output} for ids, output in zip(prompts, outputs, strict=True)]
    write_json(out / CHECK, {"tolerance": golden["tolerance"], "examples": examples})
    tokenized_texts = [
        {"text": text, "begins": begins, "ids": ids, "decoded": predictor.tokenizer.decode(ids)}
        for text in (*items, *HARD_TEXTS)
        for begins in (True, False)
        for ids in [predictor.tokens(text, begins)]
    ]
    return PageExamples(tokenized_texts, [], outputs, golden["tolerance"], prompts)


def write_examples(bundle: Path, out: Path, golden_file: Path) -> PageExamples:
    """Write `check.json` and its images into the folder `out` of a page."""
    golden = read_mapping(golden_file)
    predictor = open_predictor(str(bundle))
    texts: list[str] = []
    entries: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    outputs: list[list[float]] = []
    for number, example in enumerate(golden["examples"]):
        if "image" in example:
            name = f"{CHECK_IMAGES}/{number:03d}.png"
            make_folder(out / CHECK_IMAGES)
            image = path_inside(bundle, example["image"], where=str(golden_file))
            copy_file(image, out / name)
            images.append(_image_reference(read_image(image), predictor))
            entry, item = {"image": name}, str(image)
        else:
            entry, item = {"text": example["text"]}, example["text"]
            texts.append(item)
        outputs.append([float(value) for value in predictor.outputs([item])[0]])
        entries.append({**entry, "output": outputs[-1]})
    write_json(out / CHECK, {"tolerance": golden["tolerance"], "examples": entries})
    return PageExamples(_text_references(bundle, texts), images, outputs, golden["tolerance"])


def _image_reference(pixels: NDArray[np.uint8], predictor: Predictor) -> dict[str, Any]:
    """Return an image's RGB values, and the tensor that Python makes of them."""
    (values,) = predictor.encode([pixels]).values()
    height, width = pixels.shape[:2]
    rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return {
        "pixels": rgb.ravel().tolist(),
        "height": height,
        "width": width,
        "values": values.ravel().tolist(),
    }


def _text_references(bundle: Path, texts: list[str]) -> list[dict[str, Any]]:
    """Return the texts, followed by `HARD_TEXTS`, with their token ids in Python."""
    if not (bundle / TOKENIZER).is_file():
        return []
    task = read_mapping(bundle / TASK)
    tokenizer = load_tokenizer(str(bundle), task["max_length"], task.get("texts", {}).get("cut", "right"))
    return [
        {
            "text": text,
            "ids": encode(tokenizer, [text], {**task, "input_names": ["input_ids"]})["input_ids"][0].tolist(),
        }
        for text in (*texts, *HARD_TEXTS)
    ]
