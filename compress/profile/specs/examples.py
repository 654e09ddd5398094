"""Additional training examples, and which tokens are kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from compress.core.spec import Fraction, PassSpecBase, Positive, Seed


class VocabularySpec(PassSpecBase):
    """Which tokens the student keeps. Trimming needs a WordPiece tokenizer."""

    trim: bool = True
    """Keep only the tokens of the training data and of `data.unlabeled`, plus the margin; other tokens become the
    unknown token."""
    margin: Annotated[int, Field(ge=0)] = 500
    """Additional tokens to keep: the most frequent ones of the teacher's vocabulary, in its order."""


class AugmentSpec(PassSpecBase):
    """Additional training examples that the teacher labels: texts with replaced, deleted and spliced tokens; images
    flipped, shifted and mixed."""

    copies: Annotated[int, Field(ge=1, le=50)] = 4
    """Texts: new texts per training text, drawn once per seed."""
    replace: Fraction = 0.15
    """Texts: fraction of the tokens replaced by one of their nearest neighbours in the teacher's embeddings."""
    delete: Fraction = 0.1
    """Texts: fraction of the tokens deleted."""
    splice: Fraction = 0.2
    """Texts: fraction of the new texts made of the beginning of one text and the end of another."""
    neighbours: Positive = 15
    """Texts: number of nearest embeddings that a replacement is drawn from."""
    flip: Fraction = 0.0
    """Images: fraction mirrored horizontally; 0 by default, because a mirrored digit is a different digit."""
    crop: Fraction = 0.125
    """Images: maximum shift as a fraction of the side; the edge is repeated."""
    mixup: Fraction = 0.0
    """Images: fraction of the batches blended in pairs; the teacher labels the blend (Zhang et al. 2018)."""
    cutmix: Fraction = 0.0
    """Images: fraction of the batches with a patch of another image pasted in, never those with `mixup`; the teacher
    labels the result (Yun et al. 2019)."""


class DataFreeSpec(PassSpecBase):
    """No training data is used: the teacher labels images from a generator trained against it (Fang et al. 2019), or
    texts sampled from the vocabulary. A language model writes both prompts and answers (`sequence`; Magpie, Xu et al.
    2024)."""

    examples: Positive = 20000
    """Texts: number of texts to sample. Images: number of images generated per epoch. Language models: number of
    prompts to write; truncated, empty and near-duplicate ones, and those in the validation or test split, are left
    out."""
    length: tuple[Positive, Positive] = (4, 32)
    """Texts: [minimum, maximum] tokens of a text, without special tokens; with these, no text exceeds
    `data.max_length`."""
    words: Positive = 12000
    """Texts: number of tokens to sample from, half of them the most frequent of the teacher's vocabulary, half those
    that the teacher classifies with most confidence (sentence embedding: the most frequent only)."""
    rounds: Annotated[int, Field(ge=0)] = 3
    """Texts: rounds in which texts that miss their class are changed and put to the teacher again; 0: none."""
    generator_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Images: learning rate of the generator."""
    student_steps: Positive = 2
    """Images: steps of the student per step of the generator."""
    statistics: Annotated[float, Field(ge=0)] = 10.0
    """Images: weight of the generator's loss that matches the statistics of the teacher's BatchNorm layers (Yin et al.
    2020)."""
    balance: Annotated[float, Field(ge=0)] = 1.0
    """Images: weight of the generator's loss that keeps classes equally frequent (Chen et al. 2019)."""

    most: Positive = 128
    """Language models: maximum tokens of a prompt; with plain texts, the number of tokens of the beginning that is then
    continued."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Language models: sampling temperature of the prompts."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Language models: sample prompts from the most likely tokens whose probabilities add up to this; 1: from all."""
    seed: Seed | None = None
    """Language models: seed of the prompts; unset: the profile's."""

    @field_validator("length")
    @classmethod
    def _check_length(cls, length: tuple[int, int]) -> tuple[int, int]:
        minimum, maximum = length
        if minimum > maximum:
            raise ValueError(f"give the fewest tokens first, then the most: [{maximum}, {minimum}]")
        return length
