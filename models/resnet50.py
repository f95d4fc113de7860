"""ResNet-50 (He et al. 2016)."""

from dpbench.models.resnet18 import resnet
from torch import nn

KINDS = ("images",)


def resnet50(shape: tuple[int, ...], classes: int) -> nn.Module:
    """ResNet-50, with the same stem."""
    from torchvision.models import resnet50 as build

    return resnet(build, shape, classes)
