"""Embeddings from elsewhere, which take the place of the proxy's: a file of vectors, or a local timm network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dpbench import beside, store
from dpbench.data import Data
from dpbench.errors import UsageError
from dpbench.method import PruningMethod
from dpbench.spec import identity_hash
from dpbench.weights import read

BATCH = 64  # pictures that go through a timm network at once


def given(method: PruningMethod, data: Data, device: torch.device) -> Tensor:
    """The embeddings (n, d) of the training samples, from where the method's `embedding` says."""
    model, path = beside.weights_of(method.beside["embedding"])
    if not model:
        return _checked(path, _read(path), data.total)[data.positions]
    name = identity_hash({"model": model, "data": data.fingerprint} | beside.digests(method))
    file = store.home() / "embeddings" / f"{name}.npy"
    with store.locked(file.with_suffix(".lock")):
        if not file.is_file():
            made = _by_timm(model, path, data, device).numpy()
            store.write(file, lambda part: _dump(part, made))
    return _checked(file, _read(file), len(data.train))


def _dump(file: Path, values: np.ndarray) -> None:
    with file.open("wb") as stream:
        np.save(stream, values)


def _read(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"embedding {path}: {store.brief(error)}") from None


def _checked(path: Path, values: np.ndarray, rows: int) -> Tensor:
    """The array as float32, if it has one row of numbers for each sample; UsageError."""
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiu":
        got = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise UsageError(f"embedding {path}: {got}; numbers of shape (samples, dimensions) are needed")
    if len(values) != rows:
        raise UsageError(
            f"embedding {path}: {len(values)} rows; row i is sample i of the dataset's own training set, of {rows}"
        )
    found = torch.from_numpy(values.astype(np.float32))
    bad = (~found.isfinite().all(1)).nonzero()
    if len(bad):
        raise UsageError(f"embedding {path}: row {int(bad[0])} has values that are no finite numbers")
    return found


@torch.no_grad()
def _by_timm(name: str, weights: Path, data: Data, device: torch.device) -> Tensor:
    """What the network `name` with these weights gives before its classifier: (n, d), of pictures in its own size."""
    try:
        import timm
    except ImportError:
        raise UsageError("embedding=timm:NAME@WEIGHTS needs timm: pip install 'dpbench[timm]'") from None
    if data.train.picture(0) is None:
        raise UsageError(f"embedding=timm:{name} is for images")
    state = read(str(weights))
    try:
        network = timm.create_model(name, pretrained=False, num_classes=0)
        missing = network.load_state_dict(state, strict=False).missing_keys
    except Exception as error:  # timm and torch raise what they like
        raise UsageError(f"embedding=timm:{name}@{weights}: {store.brief(error)}") from None
    if missing:
        raise UsageError(f"embedding=timm:{name}@{weights}: the file has no {missing[0]}, which the network has")
    network = network.to(device).eval()
    config = timm.data.resolve_model_data_config(network)
    mean, std = (torch.tensor(config[key], device=device).view(1, -1, 1, 1) for key in ("mean", "std"))
    found = []
    for rows in torch.arange(len(data.train)).split(BATCH):
        pictures = torch.stack([_sized(data.train.picture(int(row)), config["input_size"], device) for row in rows])
        found.append(network((pictures - mean) / std).float().flatten(1).cpu())
    return torch.cat(found)


def _sized(picture: Tensor | None, size: tuple[int, int, int], device: torch.device) -> Tensor:
    """A picture (c, h, w) uint8 as the network takes it: values in [0, 1], three channels, its height and width."""
    assert picture is not None
    values = picture.to(device).float().div(255).expand(size[0], -1, -1)
    return F.interpolate(values[None], size[1:], mode="bilinear", antialias=True)[0]
