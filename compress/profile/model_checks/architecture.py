"""Size and tokenizer type of a transformers model, from its files. No side effects other than reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compress.models.anatomy.table.decoders import DECODERS
from compress.models.anatomy.table.families import network_of_kind
from compress.models.anatomy.table.family import KEYS, Config
from compress.models.anatomy.table.smaller import SmallerDecoder
from compress.profile.model_checks.files import ModelFiles
from compress.profile.specs.student import StudentSpec


@dataclass(frozen=True)
class EncoderSizes:
    """Width, number of layers and number of heads of an encoder."""

    hidden: int
    layers: int
    heads: int


def encoder_sizes(config: Mapping[str, Any] | None) -> EncoderSizes | None:
    """Return the sizes in a config, whatever key names its family uses; None if one is missing or invalid."""
    if config is None:
        return None
    network = network_of_kind(str(config.get("model_type")))
    keys = KEYS if network is None else network.keys
    values = [config.get(keys[size]) for size in ("hidden", "layers", "heads")]
    sizes = [value for value in values if isinstance(value, int) and value > 0]
    return EncoderSizes(*sizes) if len(sizes) == len(values) else None


def layer_count(student: StudentSpec) -> int:
    """Return the number of layers of a student."""
    return student.layers if isinstance(student.layers, int) else len(student.layers)


def student_sizes(teacher: EncoderSizes | None, student: StudentSpec) -> EncoderSizes | None:
    """Return the sizes of a student that is cut out of the teacher; None if it is not, or its sizes are unknown."""
    if teacher is None or not student.is_cut_from_teacher:
        return None
    hidden = student.hidden_size or teacher.hidden
    return EncoderSizes(
        hidden, layer_count(student), student.heads or max(1, teacher.heads * hidden // teacher.hidden)
    )


def smaller_decoder(student: StudentSpec, config: Config | None) -> SmallerDecoder | None:
    """Return the decoder that a student becomes, if it is cut out of a decoder of known sizes; None otherwise."""
    if not student.is_cut_from_teacher or config is None or config.get("model_type") not in DECODERS:
        return None
    if encoder_sizes(config) is None:
        return None
    return SmallerDecoder(config, student.hidden_size, student.heads, student.intermediate_size)


def student_config(student: StudentSpec, config: Config | None, files: ModelFiles) -> Config | None:
    """Return a student's config, derived from that of the model before it; None if it is not known yet."""
    if student.model is not None:
        return files.config(student.model)
    smaller = smaller_decoder(student, config)
    return None if smaller is None else {**smaller.config, **smaller.config_values(layer_count(student))}


def vocabulary_kind(source: str | None, files: ModelFiles) -> str | None:
    """Return the tokenizer model: `WordPiece`, `BPE`, `Unigram` or `WordLevel`; None if no file shows it.

    Old `tokenizer.json` files have no `type`, so it is inferred from their content; without a `tokenizer.json`, from
    the names of the files in the folder.
    """
    tokenizer = files.json(source, "tokenizer.json")
    model = tokenizer.get("model") if tokenizer is not None else None
    if not isinstance(model, dict):
        return None if tokenizer is not None else _kind_from_filenames(source, files)
    kind = model.get("type")
    if isinstance(kind, str):
        return kind
    if "merges" in model:
        return "BPE"
    return "Unigram" if isinstance(model.get("vocab"), list) else "WordPiece"


def _kind_from_filenames(source: str | None, files: ModelFiles) -> str | None:
    """Infer the tokenizer model from the names of the files that a slow tokenizer saves."""
    folder = None if source is None else files.folder(source)
    if folder is None or not folder.is_dir():
        return None
    names = {file.name for file in folder.iterdir()}
    if names & {"merges.txt", "bpe.codes", "vocab.json"}:
        return "BPE"
    if any(name.endswith(".model") for name in names):
        return "Unigram"
    return "WordPiece" if "vocab.txt" in names else None
