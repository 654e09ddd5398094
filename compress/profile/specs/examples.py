"""Which examples a training sees beside those of the data, and which tokens it keeps."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from compress.core.spec import Fraction, PassSpecBase, Positive


class VocabularySpec(PassSpecBase):
    """Which tokens the student keeps."""

    trim: bool = True
    """Keep only the tokens of the training data and of `data.unlabeled`, plus the margin; other tokens become the
    unknown token."""
    margin: Annotated[int, Field(ge=0)] = 500
    """So many further tokens, the most frequent ones of the teacher's vocabulary, in its order."""


class AugmentSpec(PassSpecBase):
    """Extra training examples that the teacher labels: texts with replaced, deleted and spliced tokens; images flipped,
    cropped and mixed."""

    copies: Annotated[int, Field(ge=1, le=50)] = 4
    """Texts: new texts for each text of the training split, drawn once a seed."""
    replace: Fraction = 0.15
    """Texts: share of the tokens replaced by one of their nearest neighbours in the teacher's embeddings."""
    delete: Fraction = 0.1
    """Texts: share of the tokens deleted."""
    splice: Fraction = 0.2
    """Texts: share of the texts made by joining parts of two texts."""
    neighbours: Positive = 15
    """Texts: how many nearest embeddings a replacement is drawn from."""
    flip: Fraction = 0.0
    """Images: share that is mirrored; 0 by default, because a mirrored digit is another digit."""
    crop: Fraction = 0.125
    """Images: how far, as a share of the side, an image is shifted at most, its edge repeated."""
    mixup: Fraction = 0.0
    """Images: share of the batches blended in pairs; the teacher labels the blend (Zhang et al. 2018)."""
    cutmix: Fraction = 0.0
    """Images: share of the batches with a patch of another image pasted in; the teacher labels it (Yun et al. 2019)."""


class DataFreeSpec(PassSpecBase):
    """No training data is shown: images from a generator trained against the teacher (Fang et al. 2019), texts sampled
    from the vocabulary; the teacher labels them. A language model writes the prompts that it answers (`sequence`), too
    (Magpie, Xu et al. 2024)."""

    examples: Positive = 20000
    """Texts: how many are sampled. Images: how many are generated in an epoch. Language models: how many prompts are
    written; those that are cut, empty or nearly copies are left out."""
    length: tuple[Positive, Positive] = (4, 32)
    """Texts: fewest and most tokens of a text, special tokens left out; with these, none is longer than
    `data.max_length`."""
    words: Positive = 12000
    """Texts: of how many tokens they are made: half of them the most frequent ones of the teacher's vocabulary, half
    those that tell the teacher most."""
    rounds: Annotated[int, Field(ge=0)] = 3
    """Texts: how often those that miss their class are changed and asked about again; 0: never."""
    generator_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Images: learning rate of the generator."""
    student_steps: Positive = 2
    """Images: steps of the student for each step of the generator."""
    statistics: Annotated[float, Field(ge=0)] = 10.0
    """Images: how strongly the generator is held to the statistics of the teacher's BatchNorms (Yin et al. 2020)."""
    balance: Annotated[float, Field(ge=0)] = 1.0
    """Images: how strongly it is held to equally frequent classes (Chen et al. 2019)."""

    most: Positive = 128
    """Language models: tokens of a prompt, at most; of plain texts so many begin each."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Language models: of what prompts are drawn by."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Language models: draw among the likeliest tokens that together have this probability."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Language models: seeds the prompts; unset: the profile's."""

    @field_validator("length")
    @classmethod
    def _from_fewest_to_most(cls, length: tuple[int, int]) -> tuple[int, int]:
        fewest, most = length
        if fewest > most:
            raise ValueError(f"the fewest tokens come first, then the most: [{most}, {fewest}]")
        return length
