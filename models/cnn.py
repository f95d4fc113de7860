"""A small convolutional network."""

from torch import nn

from dpbench.errors import UsageError

KINDS = ("images",)


def cnn(shape: tuple[int, ...], classes: int, width: int = 16) -> nn.Module:
    """Two 3 x 3 convolutions, `width` and 2 `width` channels, with ReLU and 2 x 2 pooling; 4 `width` hidden units."""
    channels, height, breadth = shape
    if min(height, breadth) < 4:
        raise UsageError(f"cnn: images of {height} x {breadth} are too small for two poolings; use mlp")
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * (height // 4) * (breadth // 4), 4 * width),
        nn.ReLU(),
        nn.Linear(4 * width, classes),
    )
