"""What each divergence makes of a student that cannot say all that its teacher says: does it cover, or seek modes?

    python benchmarks/llm_divergences.py

The teacher's next word is drawn from two humps over an ordered vocabulary of 101 words, of 60 % and 40 %. The student
has one hump alone, a discrete normal distribution with a middle and a width, so that it must choose. Its best values
can be derived for `forward`: those words' mean and variance are the teacher's own (an exponential family matches the
moments of its sufficient statistics). Each begins thrice, on either hump and wide between them, follows the loss of
this package to rest, and is judged where that came out least: `reverse` has a valley of its own for each.
It is no timing. Writes reports/benchmarks/llm_divergences.json and .md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from writing import write_rows

from compress.losses.contract import Divergence
from compress.training.loss_functions.logits import divergence

WORDS = 101
STEPS = 1000
MODES = ((25.0, 4.0, 0.6), (75.0, 4.0, 0.4))
"""Of each hump its middle, its width and its share."""
KINDS: tuple[tuple[Divergence, float], ...] = (
    ("forward", 0.5),
    ("skew", 0.1),
    ("jsd", 0.5),
    ("skew_reverse", 0.1),
    ("reverse", 0.5),
)


def hump(middle: Tensor, width: Tensor) -> Tensor:
    """Logits of a discrete normal distribution, (1, words)."""
    return -((torch.arange(WORDS) - middle) ** 2 / (2 * width**2))[None]


def teacher() -> Tensor:
    """Logits of the two humps together, (1, words)."""
    parts = [
        torch.log_softmax(hump(torch.tensor(middle), torch.tensor(width)), -1) + torch.tensor(share).log()
        for middle, width, share in MODES
    ]
    return torch.stack(parts).logsumexp(0)


def student(kind: Divergence, mix: float) -> Tensor:
    """The logits at which a student of one hump loses least, (1, words)."""
    said = teacher()
    rested = [at_rest(kind, mix, *start) for start in ((25.0, 1.5), (50.0, 3.0), (75.0, 1.5))]
    return min(rested, key=lambda logits: divergence(logits, said, 1.0, kind, mix).item())


def at_rest(kind: Divergence, mix: float, place: float, log_width: float) -> Tensor:
    """The logits at which a student that begins there comes to rest, (1, words)."""
    middle = torch.tensor(place, requires_grad=True)
    width = torch.tensor(log_width, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [middle], "lr": 0.2}, {"params": [width], "lr": 0.02}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    said = teacher()
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.autograd.backward(divergence(hump(middle, width.exp()), said, 1.0, kind, mix))
        optimizer.step()
        schedule.step()
    return hump(middle, width.exp()).detach()


def row(name: str, logits: Tensor) -> dict[str, Any]:
    """What a distribution over the words is like."""
    words, said = torch.arange(WORDS), torch.softmax(logits.double(), -1)[0]
    mean = (said * words).sum()
    near = [((words - middle).abs() <= 2.5 * width) for middle, width, _ in MODES]
    goal = teacher()
    return {
        "divergence": name,
        **{
            f"mass on the hump of {share:.0%}": round(said[there].sum().item(), 3)
            for there, (_, _, share) in zip(near, MODES, strict=True)
        },
        "mass beside both": round(said[~(near[0] | near[1])].sum().item(), 3),
        "mean": round(mean.item(), 1),
        "standard deviation": round((said * (words - mean) ** 2).sum().sqrt().item(), 1),
        "entropy, nats": round(torch.special.entr(said).sum().item(), 2),
        "KL(teacher, student)": round(divergence(logits, goal, 1.0, "forward").item(), 3),
        "KL(student, teacher)": round(divergence(logits, goal, 1.0, "reverse").item(), 3),
    }


def main() -> None:
    """Train a student by each, and write down what became of it."""
    rows = [row("the teacher", teacher())]
    rows += [row(kind, student(kind, mix)) for kind, mix in KINDS]
    note = (
        "Two humps, one student of one hump, each divergence of `logits` once (temperature 1, mixtures as they are by "
        "default), the best of three beginnings. `forward` covers both humps, and puts mass where the teacher says "
        "nothing; all others keep to the larger hump and leave the other out, `skew` too: what it charges for a word "
        "left out is bounded by minus the logarithm of its mixture. Mass on a hump: within 2.5 of its "
        "standard deviations."
    )
    write_rows("llm_divergences", rows, note=note)


if __name__ == "__main__":
    main()
