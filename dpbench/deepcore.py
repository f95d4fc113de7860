"""Running the selection methods of a checkout of github.com/PatrickZH/DeepCore on embeddings and logits.

Their images are the embeddings, and their network is the last layer that maps these to the logits.
"""

import contextlib
import importlib
import io
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpbench.errors import UsageError

NETWORK = "DpbenchRecord"  # the name under which their methods find the network
REFUSED = {"CoresetMethod", "EarlyTrain", "Forgetting"}  # base classes, and what must see a training of its own

# What their code holds at once, as measured: copies of n x n numbers, of n gradients of C (d + 1), of n x k numbers
PAIRS = {"cal": 5, "craig": 7, "submodular": 6}
GRADIENTS = {"craig": 6, "deepfool": 6, "glister": 6, "gradmatch": 10, "grand": 6, "submodular": 6}
DISTANCES = {"contextualdiversity": 3, "kcentergreedy": 3, "herding": 0}  # these copy all embeddings at each pick
SOLVED = {"gradmatch": 5, "submodular": 20}  # multiply-adds by k^4: a system of all picks is solved anew at each pick


def run(
    name: str, option: str, embedding: Tensor, logits: Tensor, labels: Tensor, share: float, balanced: bool, seed: int
) -> dict[str, Tensor]:
    """What their method `name` selects: `indices` and, where it has them, `weights`."""
    options = {"function": option, "selection_method": option} if option else {}
    with quietly(), todays_numpy():
        vars(checkout()[1])[NETWORK] = LastLayer(embedding, logits).build
        edited = name.lower() == "deepfool"  # in place
        method = theirs()[name.lower()](
            Rows(embedding.requires_grad_(edited), labels),
            arguments(len(labels), logits.shape[1], device(name)),
            fraction=share,
            random_seed=seed,
            epochs=0,
            specific_model=NETWORK,
            pretrain_model=NETWORK,
            torchvision_pretrain=False,
            balance=balanced,
            **options,
        )
        found = method.select()
    return {key: torch.tensor(np.array(found[key])) for key in ("indices", "weights") if key in found}


class Rows(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """The embeddings as images of d channels of one pixel."""

    def __init__(self, embedding: Tensor, labels: Tensor) -> None:
        self.images, self.targets = embedding[:, :, None, None], labels.numpy()
        self.classes = list(range(int(labels.max()) + 1))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.targets[index])


class LastLayer(nn.Module):
    """The linear layer that maps the embeddings to the logits, with the attributes that DeepCore's networks have."""

    def __init__(self, embedding: Tensor, logits: Tensor) -> None:
        super().__init__()
        ones = torch.ones_like(embedding[:, :1])
        fit = torch.linalg.lstsq(torch.cat([embedding, ones], 1).double(), logits.double(), driver="gelsd").solution
        self.linear = nn.Linear(embedding.shape[1], logits.shape[1])
        self.linear.weight.data, self.linear.bias.data = fit[:-1].T.float().contiguous(), fit[-1].float()
        self.embedding_recorder, self.no_grad = Recorder(), False

    def build(self, *_: Any, record_embedding: bool = False, no_grad: bool = False, **__: Any) -> "LastLayer":
        """What their constructors do, given that there is one network only."""
        self.embedding_recorder.record_embedding, self.no_grad = record_embedding, no_grad
        return self

    def get_last_layer(self) -> nn.Linear:
        return self.linear

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.no_grad):
            return self.linear(self.embedding_recorder(x.flatten(1)))


class Recorder(nn.Module):
    """Remembers the embedding inside a with-block."""

    record_embedding = False

    def forward(self, x: Tensor) -> Tensor:
        if self.record_embedding:
            self.embedding = x
        return x

    def __enter__(self) -> None:
        self.record_embedding = True

    def __exit__(self, *_: Any) -> None:
        self.record_embedding = False


def checkout() -> tuple[ModuleType, ModuleType]:
    """Import the methods and networks of the user's checkout."""
    root = os.environ.get("DPBENCH_DEEPCORE", "")
    if not (Path(root) / "deepcore" / "methods").is_dir() or not root:
        raise UsageError(
            f"DPBENCH_DEEPCORE = {root!r} is not a checkout of github.com/PatrickZH/DeepCore; "
            "set it to the path of yours, the folder that has deepcore/methods"
        )
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        return importlib.import_module("deepcore.methods"), importlib.import_module("deepcore.nets")
    except Exception as error:
        raise UsageError(f"DPBENCH_DEEPCORE = {root!r}: importing it raised {type(error).__name__}: {error}") from error


def theirs() -> dict[str, type]:
    """The checkout's selection methods that can select from a record, by name in lower case."""
    found = {name: value for name, value in vars(checkout()[0]).items() if name[0] != "_" and name not in REFUSED}
    return {
        name.lower(): value for name, value in found.items() if isinstance(value, type) and hasattr(value, "select")
    }


def cost(name: str, option: str, n: int, k: int, classes: int, d: int) -> tuple[float, float]:
    """Multiply-adds and floats that their code takes to choose k of n samples, for `guard`; roughly, as measured."""
    products = 5e4 * n * n * (name in PAIRS) + 100 * n * k * d * (name in DISTANCES)
    if option not in ("FacilityLocation", "GraphCut"):
        products += SOLVED.get(name, 0) * k**4
    copies = PAIRS.get(name, 0) * n + GRADIENTS.get(name, 0) * classes * (d + 1) + DISTANCES.get(name, 0) * k
    return products, n * copies


def device(name: str) -> str:
    """The GPU where there is one; GradMatch's own code for it calls torch.lstsq, which torch has no more."""
    return "cuda" if torch.cuda.is_available() and name.lower() != "gradmatch" else "cpu"


def arguments(n: int, classes: int, device: str) -> Namespace:
    """What DeepCore's command line would set."""
    return Namespace(
        device=device,
        gpu=None,
        workers=0,
        print_freq=n,
        selection_batch=n,
        num_classes=classes,
        channel=1,
        im_size=(224, 224),  # their size for a pretrained network, so that nothing is resized
        model=NETWORK,
        lr=0.1,
        selection_optimizer="SGD",
        selection_lr=0.1,
        selection_momentum=0.9,
        selection_weight_decay=5e-4,
        selection_nesterov=True,
        selection_test_interval=0,
        selection_test_fraction=1.0,
    )


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Swallow its prints and warnings, and give the global generators, which it seeds, back as they were."""
    state = np.random.get_state()
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(action="ignore"),
            torch.random.fork_rng(),
            torch.enable_grad(),
        ):
            yield
    finally:
        np.random.set_state(state)


@contextlib.contextmanager
def todays_numpy() -> Iterator[None]:
    """Lend NumPy the function in1d that it no longer has."""
    lent = not hasattr(np, "in1d")
    if lent:
        np.in1d = np.isin  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if lent:
            del np.in1d  # type: ignore[attr-defined]
