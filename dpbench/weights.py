"""Read a file of a model's weights, without running code that may lie in it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dpbench.errors import UsageError, one_line


def read(file: str) -> dict[str, Tensor]:
    """The tensors by name in a .safetensors file, or in one that torch.save wrote; UsageError for anything else."""
    path = Path(file)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"the weights {file} cannot be read: {error.strerror or error}") from None
    except ImportError:
        raise UsageError("a .safetensors file needs the package safetensors: pip install safetensors") from None
    except Exception as error:  # torch and safetensors raise what they like
        reason = one_line(error, 200)
        raise UsageError(f"the weights {file} are not a file of tensors, which alone is read: {reason}") from None
    for key in ("state_dict", "model", "model_ema"):  # where training scripts put them
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UsageError(f"the weights {file} are not tensors by name")
    return {name.removeprefix("module."): value for name, value in found.items()}
