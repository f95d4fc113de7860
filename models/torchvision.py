"""The image classifiers of torchvision, trained from scratch."""

from torch import nn

from dpbench.errors import UsageError

KINDS = ("images",)


def names() -> list[str]:
    """What may stand after `torchvision:`."""
    from torchvision import models  # it takes a second to import

    return models.list_models(module=models)


def torchvision(shape: tuple[int, ...], classes: int, name: str = "") -> nn.Module:
    """`torchvision:NAME`, as torchvision builds it: for three channels and, mostly, 224 pixels; no auxiliary heads."""
    from torchvision.models import get_model

    if shape[0] != 3:
        raise UsageError(f"torchvision:{name} takes images of 3 channels, not {shape[0]}; timm:NAME takes any number")
    without = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return get_model(name, num_classes=classes, **without)
