"""ResNet-34 (He et al. 2016)."""

from dpbench.models.resnet18 import resnet
from torch import nn

KINDS = ("images",)


def resnet34(shape: tuple[int, ...], classes: int) -> nn.Module:
    """ResNet-34, with the same stem."""
    from torchvision.models import resnet34 as build

    return resnet(build, shape, classes)
