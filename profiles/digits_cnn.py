"""Small convolutional networks for pictures of 8 x 8 grey levels: teacher and student of the digits profiles."""

from __future__ import annotations

from torch import Tensor, nn


class DigitsCnn(nn.Module):
    """Four convolutions with batch norm, the mean over the places, one linear layer."""

    def __init__(self, width: int, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *convolution(1, width),
            *convolution(width, 2 * width),
            *convolution(2 * width, 2 * width),
            nn.MaxPool2d(2),
            *convolution(2 * width, 4 * width),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Pixels (n, 1, 8, 8) -> logits (n, classes)."""
        logits: Tensor = self.head(self.pool(self.features(pixel_values)).flatten(1))
        return logits


def convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """A 3 x 3 convolution that keeps the size, its norm and its activation."""
    return (
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def build() -> nn.Module:
    """The teacher with random weights, to be trained by `finetune`: 131,178 parameters."""
    return DigitsCnn(32)


def build_small() -> nn.Module:
    """A student: 8,610 parameters."""
    return DigitsCnn(8)
