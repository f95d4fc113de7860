"""The image classifiers of timm: Swin, ViT, ConvNeXt and a thousand more, from scratch or from a file of weights."""

from typing import Any

from torch import nn

from dpbench.errors import UsageError, one_line
from dpbench.weights import read

KINDS = ("images",)
FILES = ("pretrained",)  # the parameters that name a file, whose content is part of a run's identity


def names() -> list[str]:
    """What may stand after `timm:`."""
    listed: list[str] = _timm().list_models()
    return listed


def timm(
    shape: tuple[int, ...], classes: int, name: str = "", pretrained: str = "", drop_path: float = 0.0
) -> nn.Module:
    """`timm:NAME` for images of any size and number of channels; `pretrained` is a local .safetensors or .pth file.

    Pretrained weights are fitted as timm does: positions are interpolated, the first layer is summed or repeated over
    channels, and a classifier of another number of classes is drawn anew. `drop_path` is the rate of stochastic depth.
    """
    library = _timm()
    known = library.get_pretrained_cfg(name)
    options: dict[str, Any] = {"img_size": shape[1:]} if known.fixed_input_size else {}
    options |= {"drop_path_rate": drop_path} if drop_path else {}
    if pretrained:
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": read(pretrained)}}
    try:
        model: nn.Module = library.create_model(name, num_classes=classes, in_chans=shape[0], **options)
    except (RuntimeError, AssertionError, TypeError, KeyError) as error:
        raise UsageError(f"timm:{name} cannot be built for {shape}: {one_line(error, 300)}") from error
    return model


def _timm() -> Any:
    try:
        import timm as library  # it takes two seconds to import
    except ImportError:
        raise UsageError("timm:NAME needs the package timm: pip install 'dpbench[timm]'") from None
    return library
