"""ResNet-18 (He et al. 2016), and the stem of all three for small images."""

from collections.abc import Callable

from torch import nn

from dpbench.errors import UsageError

KINDS = ("images",)
SMALL = 64  # pixels below which a ResNet has the CIFAR stem


def resnet18(shape: tuple[int, ...], classes: int) -> nn.Module:
    """ResNet-18; below 64 pixels with the CIFAR stem: a 3 x 3 first convolution of stride 1 and no pooling."""
    from torchvision.models import resnet18 as build  # torchvision takes a second to import

    return resnet(build, shape, classes)


def resnet(build: Callable[..., nn.Module], shape: tuple[int, ...], classes: int) -> nn.Module:
    """Torchvision's ResNet, with the stem that suits the images."""
    model = build(num_classes=classes)
    small = min(shape[1:]) < SMALL
    model.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False) if small else model.conv1
    model.maxpool = nn.Identity() if small else model.maxpool
    if not small and shape[0] != 3:
        raise UsageError(f"a ResNet of images of {SMALL} pixels and more takes 3 channels, not {shape[0]}")
    return model
