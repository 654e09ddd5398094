"""Makes the inputs of a model of characters; lies beside `runner.py` in a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from runner import load_task, open_session


class Predictor:
    """A model of characters, of a folder with `model.onnx` and `task.json`."""

    labels: list[str] = []  # noqa: RUF012

    def __init__(self, folder: str, threads: int = 1, device: str = "cpu", model: str = "model.onnx") -> None:
        self.task = load_task(folder)
        self.known = {letter: 2 + place for place, letter in enumerate(self.task["alphabet"])}
        self.session = open_session(str(Path(folder) / model), threads, device)

    def outputs(self, items: Sequence[str]) -> Any:
        """Texts -> logits float32 (texts, characters, alphabet)."""
        texts = [text.lower()[: self.task["max_length"]] for text in items]
        letters = np.zeros((len(texts), max(map(len, texts))), np.int64)
        for row, text in enumerate(texts):
            letters[row, : len(text)] = [self.known.get(letter, 1) for letter in text]
        given = {"input_ids": letters, "attention_mask": (letters != 0).astype(np.int64)}
        return self.session.run(None, given)[0]

    def following(self, text: str) -> str:
        """The likeliest character after a text."""
        place = int(self.outputs([text])[0, len(text[: self.task["max_length"]]) - 1, 2:].argmax())
        return str(self.task["alphabet"][place])
