"""What the files of the models in a profile tell about them before anything is loaded: their kind, their tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.errors import CompressError
from compress.package_paths import local_path
from compress.profile.distill_spec import DistillSpec
from compress.profile.loss_specs import AttentionLoss, EmbeddingLoss, HiddenLoss, LossSpec, RelationLoss
from compress.profile.schema import Profile
from compress.profile.source import Path_
from compress.profile.teaching import Found, losses_of

CONVOLUTIONAL = frozenset(
    {
        "bit",
        "convnext",
        "convnextv2",
        "efficientnet",
        "mobilenet_v1",
        "mobilenet_v2",
        "poolformer",
        "regnet",
        "resnet",
        "timm_wrapper",
    }
)
"""Model types of transformers without self-attention."""

_SEGMENTATION = ("model", "normalizer", "pre_tokenizer")


def known_model_faults(profile: Profile, base: Path) -> list[Found]:
    """What the teachers and students of a valid profile cannot do, as far as their files on this machine tell."""
    found: list[Found] = []
    for index, spec in enumerate(profile.specs):
        if isinstance(spec, DistillSpec):
            found += [
                (("passes", index, "distill", *keys), why)
                for keys, why in _distill_faults(profile, spec, base)
            ]
    return found


def _distill_faults(profile: Profile, spec: DistillSpec, base: Path) -> Iterator[Found]:
    kind = _model_type(profile.teacher.model, base)
    attends = kind is not None and kind not in CONVOLUTIONAL
    unlike = spec.student.model is not None and _unlike(profile.teacher.model, spec.student.model, base)
    for index, stage in enumerate(spec.staged):
        place: Path_ = ("stages", index, "losses") if spec.stages else ("losses",)
        for number, loss in enumerate(losses_of(stage)):
            name = next(iter(type(stage.losses[number]).model_fields))
            looks_at_attention = isinstance(loss, RelationLoss) or (
                isinstance(loss, AttentionLoss) and loss.of != "spatial"
            )
            if looks_at_attention and kind in CONVOLUTIONAL:
                yield (*place, number), f"the teacher is a {kind}, which has no attention to compare"
            elif isinstance(loss, AttentionLoss) and loss.of == "spatial" and attends:
                yield (
                    (*place, number),
                    f"the teacher is a {kind}, which has no maps of convolutions to compare",
                )
            elif unlike and _by_token(loss):
                yield (
                    (*place, number),
                    f"student and teacher have unlike tokenizers, so {name} cannot compare them token by token",
                )
    if unlike and spec.augment is not None:
        yield ("augment",), "student and teacher have unlike tokenizers, so new texts cannot be made for both"


def _by_token(loss: LossSpec) -> bool:
    return isinstance(loss, HiddenLoss | EmbeddingLoss | AttentionLoss | RelationLoss)


def _model_type(source: str, base: Path) -> str | None:
    """The `model_type` in a model's config; None where it is not on this machine, or no model of transformers."""
    config = _json(source, "config.json", base)
    kind = config.get("model_type") if config is not None else None
    return kind if isinstance(kind, str) else None


def _unlike(first: str, second: str, base: Path) -> bool:
    """Whether two models are known to cut texts into different pieces."""
    one, other = _json(first, "tokenizer.json", base), _json(second, "tokenizer.json", base)
    if one is None or other is None:
        return False
    return any(one.get(part) != other.get(part) for part in _SEGMENTATION)


def _json(source: str, name: str, base: Path) -> dict[str, Any] | None:
    """A JSON file of a model that lies on this machine; None where there is none that can be read."""
    try:
        folder = local_path(source, base)
        if folder is None:
            return None
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except (CompressError, OSError, ValueError):
        # Whatever is wrong with the source itself is reported where it is fetched.
        return None
    return value if isinstance(value, dict) else None
