"""Which families of models can be lowered, and which can be taken apart: one table, asked before anything is loaded.

A family is a `model_type` of transformers. It stands here once its lowered file was seen to say the same as
transformers' own class, at several lengths and with padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compress.passes.contract import PassSpec
from compress.passes.distill.spec import DistillSpec
from compress.passes.export.spec import ExportSpec
from compress.passes.prune.spec import PruneSpec
from compress.passes.quantize.spec import QuantizeSpec
from compress.profile.combination_checks import Found
from compress.profile.model_checks.files import read_json
from compress.profile.schema import Profile, TaskName
from compress.profile.student_spec import StudentSpec
from compress.profile.yaml_lines import Path_

FAMILY_UNSUPPORTED = "family-unsupported"
"""The code of a fault about a family."""

Config = Mapping[str, Any]
ReadConfig = Callable[[str | None], Config | None]
"""A source -> its parsed `config.json`; None where it is not on this machine."""


@dataclass(frozen=True)
class Family:
    """What is known of a `model_type`.

    `apart`: its layers can be cut out and changed one by one, so students can be made of it, and heads, neurons, layers
    and tokens removed. `attends`: it has self-attention. `counts_from_padding`: its first position is the one after
    the padding index, so it takes so many tokens fewer than it has positions. `embeds`: it runs without its pooler, as
    an encoder of sentences.
    """

    takes: Literal["texts", "images"]
    apart: bool = False
    attends: bool = True
    counts_from_padding: bool = False
    embeds: bool = True


_TEXTS = Family("texts")
_IMAGES = Family("images")
_CONVOLUTIONS = Family("images", attends=False)

FAMILIES: Mapping[str, Family] = {
    "bert": Family("texts", apart=True),
    "camembert": Family("texts", apart=True, counts_from_padding=True),
    "convbert": _TEXTS,
    "data2vec-text": Family("texts", counts_from_padding=True),
    "distilbert": Family("texts", apart=True),
    "electra": Family("texts", apart=True),
    "ernie": _TEXTS,
    "gte": _TEXTS,
    "megatron-bert": _TEXTS,
    "mobilebert": _TEXTS,
    "mpnet": Family("texts", counts_from_padding=True),
    "nomic_bert": _TEXTS,
    "rembert": _TEXTS,
    "roberta": Family("texts", apart=True, counts_from_padding=True),
    "roberta-prelayernorm": Family("texts", counts_from_padding=True),
    "roformer": _TEXTS,
    "squeezebert": Family("texts", embeds=False),
    "xlm-roberta": Family("texts", apart=True, counts_from_padding=True),
    "beit": _IMAGES,
    "clip": _IMAGES,
    "data2vec-vision": _IMAGES,
    "deit": Family("images", apart=True),
    "dinov2": _IMAGES,
    "dinov2_with_registers": _IMAGES,
    "focalnet": _IMAGES,
    "hiera": _IMAGES,
    "ijepa": _IMAGES,
    "levit": _IMAGES,
    "mobilevit": _IMAGES,
    "mobilevitv2": _IMAGES,
    "pvt_v2": _IMAGES,
    "segformer": _IMAGES,
    "siglip": _IMAGES,
    "swiftformer": _IMAGES,
    "swin": _IMAGES,
    "swinv2": _IMAGES,
    "vit": Family("images", apart=True),
    "vit_msn": _IMAGES,
    "convnext": _CONVOLUTIONS,
    "convnextv2": _CONVOLUTIONS,
    "efficientnet": _CONVOLUTIONS,
    "hgnet_v2": _CONVOLUTIONS,
    "mobilenet_v1": _CONVOLUTIONS,
    "mobilenet_v2": _CONVOLUTIONS,
    "poolformer": _CONVOLUTIONS,
    "regnet": _CONVOLUTIONS,
    "resnet": _CONVOLUTIONS,
    "textnet": _CONVOLUTIONS,
}
"""The families that are lowered exactly."""

_DECODES = "each token looks at those before it alone"
_NOT_LOWERED: Mapping[str, str] = {
    "albert": "all its layers share one set of weights",
    "deberta": "its attention reads relative positions through a mask of its own form",
    "deberta-v2": "its attention reads relative positions through a mask of its own form",
    "eurobert": "its heads share keys and values",
    "longformer": "its tokens look at their neighbours and at chosen tokens alone",
    "big_bird": "its tokens look at their neighbours and at chosen tokens alone",
    "modernbert": "in most of its layers tokens look at their neighbours alone",
    "xlnet": "it reads texts padded on the left, in a layout of its own",
    **dict.fromkeys(
        ("gpt2", "gpt_neo", "gpt_neox", "llama", "mistral", "phi3", "gemma", "qwen2", "qwen3", "opt"),
        _DECODES,
    ),
    "bit": "its standardized weights come out differently",
    "pvt": "its head does not follow the labels of its config",
    "timm_wrapper": "its layers lie in another package, timm",
}
"""What stands in the way, of those that are asked for often."""

_OF_ENCODERS = ("heads", "feed_forward", "layers", "hidden")

_WHOLE: Mapping[str, str] = {
    "albert": "all its layers share one set of weights, so none can be cut out or changed alone",
    "mpnet": "its layers share one table of relative positions, a column a head",
    "deberta": "its attention reads relative positions through weights of their own",
    "deberta-v2": "its attention reads relative positions through weights of their own",
}
"""Why a family cannot be taken apart, where more can be said than that its layers are not known."""

CONVOLUTIONAL = frozenset(name for name, family in FAMILIES.items() if not family.attends) | {
    "bit",
    "timm_wrapper",
}
"""Model types of transformers without self-attention."""


def why_not_lowered(config: Config, task: TaskName | None = None) -> str | None:
    """Why a model cannot become an ONNX file that says the same; None where it can.

    Args:
        config: its parsed `config.json`.
        task: what it is to do; None: whatever it can.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str):
        return "its config.json names no `model_type`"
    if kind not in FAMILIES:
        why = _NOT_LOWERED.get(kind, "nobody has seen its ONNX file say the same as the model")
        return f"a model of the family {kind!r} cannot be lowered to ONNX here: {why}"
    if task == "sentence-embedding" and not FAMILIES[kind].embeds:
        return f"a model of the family {kind!r} does not run without its pooler, so it cannot embed sentences here"
    for key in ("is_decoder", "add_cross_attention"):
        if config.get(key) is True:
            return f"this {kind} has `{key}: true`, and the lowering knows encoders alone"
    return None


def why_whole(kind: str) -> str | None:
    """Why the layers of a `model_type` cannot be cut out, pruned and given to students; None where they can."""
    family = FAMILIES.get(kind)
    if family is not None and family.apart:
        return None
    why = _WHOLE.get(kind, "where its layers stand is not known")
    return f"a model of the family {kind!r} cannot be taken apart: {why}"


def apart_families() -> list[str]:
    """The families that can be taken apart, by name."""
    return sorted(name for name, family in FAMILIES.items() if family.apart)


def most_tokens(config: Config) -> int | None:
    """How many tokens a text model takes, special tokens included; None where nothing bounds them."""
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int):
        return None
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or not family.counts_from_padding:
        return positions
    padding = config.get("pad_token_id")
    return positions - (padding if isinstance(padding, int) else 1) - 1


def family_faults(profile: Profile, base: Path, read: ReadConfig | None = None) -> list[Found]:
    """What the families of the models in a valid profile make impossible, as far as their configs are known.

    Args:
        read: how a config is had; unset: only from folders and packages of this machine.
    """
    read = read or (lambda source: read_json(source, "config.json", base))
    return list(_faults(profile, read))


def _faults(profile: Profile, read: ReadConfig) -> Iterator[Found]:
    config = read(profile.teacher.model)
    if config is not None and _is_lowered(profile, profile.specs):
        yield from _unlowered(("teacher", "model"), config, profile.task)
    kind = _kind(config)
    for index, spec in enumerate(profile.specs):
        place: Path_ = ("passes", index, spec.kind)
        if isinstance(spec, DistillSpec):
            for key, student in _students(spec):
                if student.model is not None:
                    config = read(student.model)
                    if config is not None and _is_lowered(profile, profile.specs[index + 1 :]):
                        yield from _unlowered((*place, *key, "model"), config, profile.task)
                    kind = _kind(config)
                elif student.architecture is not None:
                    kind = student.architecture
                elif kind is not None and (why := why_whole(kind)) is not None:
                    yield (
                        (*place, *key),
                        f"{why}; name a student that stands ready with `model`, or leave `distill` out and quantize",
                    )
        elif isinstance(spec, PruneSpec) and kind is not None and (why := why_whole(kind)) is not None:
            yield from (
                (place + key, f"{why}; known: {', '.join(apart_families())}") for key in _parts(spec, kind)
            )


def _unlowered(place: Path_, config: Config, task: TaskName) -> Iterator[Found]:
    why = why_not_lowered(config, task)
    if why is not None:
        takes = "images" if task == "image-classification" else "texts"
        known = [name for name, one in sorted(FAMILIES.items()) if one.takes == takes]
        yield place, f"{why}; name a model of one of the families that can be: {', '.join(known)}"


def _is_lowered(profile: Profile, further: tuple[PassSpec, ...]) -> bool:
    """Whether a model that these passes follow becomes ONNX: for a target that runs it, or for one of the passes."""
    for spec in further:
        if isinstance(spec, DistillSpec) and spec.student.model is not None:
            break
        if isinstance(spec, ExportSpec) or (isinstance(spec, QuantizeSpec) and spec.library == "onnxruntime"):
            return True
    return any(target.runtime == "onnxruntime" for target in profile.targets)


def _students(spec: DistillSpec) -> list[tuple[Path_, StudentSpec]]:
    """Those that learn, one from the other, and where they stand in the pass."""
    assistants = [(("assistants", number), one) for number, one in enumerate(spec.assistants)]
    return [*assistants, (("student",), spec.student)]


def _parts(spec: PruneSpec, kind: str) -> Iterator[Path_]:
    """The keys that ask for heads, neurons, layers, width or tokens to go, which need layers that are known."""
    images = kind in FAMILIES and FAMILIES[kind].takes == "images"
    if spec.target is not None and not images:
        # Of images, channels of convolutions may go: whether there are any is seen when the model is loaded.
        yield ("target",)
    if spec.remove is not None and kind not in CONVOLUTIONAL:
        yield from (("remove", key) for key in _OF_ENCODERS if getattr(spec.remove, key))
        if spec.remove.vocabulary == "unused":
            yield ("remove", "vocabulary")


def _kind(config: Config | None) -> str | None:
    kind = None if config is None else config.get("model_type")
    return kind if isinstance(kind, str) else None
