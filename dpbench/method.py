"""The one interface: what a pruning method is told, what it requires, and what it answers.

A method file imports this module and the building blocks `dpbench.draws` and `dpbench.inclusion` and, for static
methods, `dpbench.scores`, `dpbench.kernels` and `dpbench.greedy`; `dpbench.errors` for what the user has to set right;
nothing else of dpbench, but that `subset` reads a file of `dpbench.selections` and `deepcore` calls `dpbench.deepcore`.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Set
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Literal, dataclass_transform

import torch
from torch import Tensor

from dpbench.errors import is_share

__all__ = [
    "Picks",
    "Proxy",
    "PruningMethod",
    "Requires",
    "Selection",
    "Signals",
    "Task",
    "named",
    "param",
]


@dataclass(frozen=True)
class Task:
    """What is to be trained: `n` samples for `epochs` epochs in batches of `batch_size` (over all ranks).

    `keep` is the requested share of the samples in (0, 1]; `labels` are (n,) int64 on the CPU, or None. `data` is the
    fingerprint of the samples, empty where it is not known.
    """

    n: int
    epochs: int
    batch_size: int
    keep: float
    labels: Tensor | None = None
    data: str = ""

    @property
    def k(self) -> int:
        """The requested number of samples, at least 1."""
        return max(1, round(self.keep * self.n))


@dataclass(frozen=True)
class Signals:
    """What was measured on forwarded samples: `indices` (b,) int64 and, by name, `values` (b,) or (b, d).

    All tensors are detached and on the CPU. `epoch` counts from 0. `proxy_run` is the
    number of the recorded proxy training that is being replayed, None in the training itself.
    """

    indices: Tensor
    values: dict[str, Tensor]
    epoch: int
    proxy_run: int | None = None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.values:
            held = ", ".join(sorted(self.values)) or "nothing"
            raise LookupError(f"the signal {name!r} was not measured ({held} was); name it in Requires")
        return self.values[name]

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Selection:
    """An answer: train on `indices` (k,) int64, unique; a sample's loss is multiplied by its weight.

    `weights` (k,) are non-negative floats in the order of `indices`, None for all ones; the loss of a batch is
    the sum of the weighted losses divided by the number of samples in the batch. `refresh` (m,) are samples
    forwarded after the epoch without training on them. `lr_scale` multiplies the learning rate of the epoch.
    """

    indices: Tensor
    weights: Tensor | None = None
    refresh: Tensor | None = None
    lr_scale: float = 1.0


@dataclass(frozen=True)
class Picks:
    """An answer to `pick`: the rows at `positions` (k,) int64, unique, of the forwarded batch go backward.

    `weights` (k,) are as in `Selection`, in the order of `positions`.
    """

    positions: Tensor
    weights: Tensor | None = None


@dataclass(frozen=True)
class Proxy:
    """A training run recorded once, shared by all methods that ask for it, and replayed through `observe`.

    It is the recipe's own training, seen up to `epochs` epochs and repeated with `seeds` independent seeds.
    `at`: "end" replays one pass over the data after the last of these epochs, "epochs" one pass after each,
    "steps" the signals of the training batches themselves, epoch by epoch. `data`: the proxy trains on the
    training samples ("train") or on the dataset's trusted samples, else on the validation samples ("holdout"); it
    is always the training samples that are recorded. `share` of the training samples, drawn anew for each seed,
    are trained on; which ones is the signal `member`; the learning rate of an epoch's last step is
    the signal `learning_rate`.

    With `hardest` above 0 the proxy goes through the batches of the run itself, 1 / keep of them at once, and every
    `hardest`-th step trains on their rows of highest loss, the share `keep`; which ones these are is the signal
    `member` of all steps.
    """

    epochs: int
    seeds: int = 1
    at: Literal["end", "epochs", "steps"] = "end"
    data: Literal["train", "holdout"] = "train"
    share: float = 1.0
    hardest: int = 0

    def __post_init__(self) -> None:
        if self.at not in ("end", "epochs", "steps") or self.data not in ("train", "holdout"):
            raise ValueError(f"a proxy at={self.at!r} on data={self.data!r}; see the definition of Proxy")
        if self.epochs < 1 or self.seeds < 1:
            raise ValueError(f"a proxy of {self.epochs} epochs and {self.seeds} seeds; both are at least 1")
        if not is_share(self.share):
            raise ValueError(f"a proxy on the share {self.share} of the samples; it is in (0, 1]")
        if self.at == "steps" and (self.data == "holdout" or self.share < 1):
            raise ValueError("a proxy that trains on other samples has not all in its steps; use at='epochs'")
        if self.data == "holdout" and self.share < 1:
            raise ValueError("a proxy on holdout data trains on all of it; share is for data='train'")
        if self.hardest < 0 or (self.hardest and (self.at, self.data, self.seeds) != ("steps", "train", 1)):
            raise ValueError(f"a proxy with hardest={self.hardest}; one on the samples, with at='steps', is needed")


@dataclass(frozen=True)
class Requires:
    """What a method requires of the training.

    `signals` are the names of what `observe` or `pick` reads. `proxy` is replayed before the first select. `period`
    counts epochs between selects; 0 selects once. `online` methods observe after each step, not once an epoch. After
    the share `until` of the training, which a budget may count in other units than epochs, all data is used. `budget`
    is what the training ends by: its epochs, or keep n epochs samples sent backward. `fixed_keep` is the share of the
    samples, whatever the grid asks for.
    """

    signals: Set[str] = frozenset()
    proxy: Proxy | None = None
    period: int = 1
    online: bool = False
    until: float = 1.0
    budget: Literal["epochs", "samples"] = "epochs"
    fixed_keep: float | None = None

    def __post_init__(self) -> None:
        period, until = self.period, self.until
        rules = {
            "signals": (isinstance(self.signals, Set), "a set of names, as {'loss'}"),
            "proxy": (self.proxy is None or isinstance(self.proxy, Proxy), "a Proxy or None"),
            "period": (type(period) is int and period >= 0, "a whole number of epochs, 0 to select once"),
            "online": (isinstance(self.online, bool), "True or False"),
            "until": (isinstance(until, int | float) and 0 <= until <= 1, "a share of the training in [0, 1]"),
            "budget": (self.budget in ("epochs", "samples"), "'epochs' or 'samples'"),
            "fixed_keep": (self.fixed_keep is None or is_share(self.fixed_keep), "a share in (0, 1] or None"),
        }
        for name, (fits, kind) in rules.items():
            if not fits:
                raise ValueError(f"{name} = {getattr(self, name)!r} is not {kind}")
        object.__setattr__(self, "signals", frozenset(self.signals))  # whoever made the set may change it


def param(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    log: bool = False,
    choices: tuple[Any, ...] | None = None,
    at_least_keep: bool = False,
) -> Any:
    """Declare a hyper-parameter: its default and the range that is valid, and that `dpbench tune` searches.

    `at_least_keep` says of a share that below the share kept it counts as that; what is split so is tuned by it alone.
    ValueError for a range that nothing can be searched in.
    """
    fault = _fault(low, high, log, choices)
    if fault:
        raise ValueError(f"param({default!r}, low={low!r}, high={high!r}, log={log!r}, choices={choices!r}): {fault}")
    declared = {"low": low, "high": high, "log": log, "choices": choices, "at_least_keep": at_least_keep}
    return dataclasses.field(default=default, metadata=declared)


def _fault(low: Any, high: Any, log: bool, choices: Any) -> str | None:
    """What is wrong with a declared range, None if nothing is."""
    if choices is not None:
        plain = isinstance(choices, tuple | list) and all(isinstance(c, str | int | float | None) for c in choices)
        return None if choices and plain else "choices are words, numbers, true, false or None, at least one"
    if not all(end is None or (isinstance(end, int | float) and math.isfinite(end)) for end in (low, high)):
        return "low and high are finite numbers, or None for an open end"
    if low is not None and high is not None and low > high:
        return "low is above high"
    if log and low is not None and low <= 0:
        return "a range searched by its logarithm has low above 0"
    return None


def named(name: str) -> PruningMethod:
    """The method `name` with its defaults, for a method that builds on it and says so in `uses`."""
    from dpbench.catalog import load_method  # the catalog imports method files, so not at the top

    return load_method(name)


@dataclass_transform(field_specifiers=(param,), kw_only_default=True)
class PruningMethod(ABC):
    """A data-pruning method. Annotated class attributes are its hyper-parameters (see `param`).

    Subclasses become dataclasses by themselves. State lives in attributes made in `setup`: tensors of O(n) on
    the CPU, numbers, strings, other methods, and lists or dicts of all but methods; it depends only on the calls and on
    `self.rng`.
    """

    paper: ClassVar[str] = ""  # authors, title, and in brackets where and when

    task: Task
    rng: torch.Generator
    beside: Mapping[str, Any] = {}  # the parameters given beside its own: see dpbench/beside.py

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(eq=False, kw_only=True)(cls)

    def requires(self) -> Requires:
        """What the training has to provide; it depends on hyper-parameters alone, and may be asked at any time."""
        return Requires()

    def setup(self, task: Task, rng: torch.Generator) -> None:
        """Start afresh for `task`; `rng` is a CPU generator that is this method's alone."""
        self.task = task
        self.rng = rng

    def ready(self) -> None:  # noqa: B027 - most methods need nothing
        """Raise UsageError where something outside dpbench is missing; asked before anything is trained."""

    @abstractmethod
    def select(self, epoch: int) -> Selection:
        """Choose the samples of `epoch`, before it starts."""

    def pick(self, signals: Signals, rng: torch.Generator) -> Picks:
        """Choose what of a forwarded batch goes backward, without changing state.

        `rng` is the rank's own; drawing from `self.rng` here would let the ranks drift apart.
        """
        raise NotImplementedError

    def observe(self, signals: Signals) -> None:  # noqa: B027 - a method that learns nothing is complete
        """Learn from forwarded samples: in any order, in any chunks, repeats harmless."""

    def surrogate(self) -> Tensor | None:
        """The loss that the last `select` minimises in expectation, where that is known: its weights (n,).

        The mean gradient of what `select` chooses is unbiased for the sum of the weighted gradients. Changes no state
        and draws nothing.
        """
        return None

    def epochs(self, task: Task) -> int:
        """How many of `task.epochs` epochs to train."""
        return task.epochs

    def pool(self, task: Task) -> int:
        """How many batches are offered to `pick` at once, for one trained batch."""
        return 1

    def uses(self) -> tuple[str, ...]:
        """The names of other methods whose code this one runs: a change of theirs makes another run of it."""
        return ()

    def modules(self) -> tuple[ModuleType, ...]:
        """Modules outside dpbench whose code this method runs: a change of theirs makes another run of it, too."""
        return ()

    @classmethod
    def picks(cls) -> bool:
        """Whether this is a batch-level method, one that overrides `pick`."""
        return cls.pick is not PruningMethod.pick

    def kind(self) -> str:
        """What it decides on: "static" once, "batch" within each batch, "epoch" before each epoch."""
        return "batch" if self.picks() else "static" if self.requires().period == 0 else "epoch"

    def hyperparameters(self) -> dict[str, Any]:
        """Every hyper-parameter with its value, and those given beside its own."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return own | dict(self.beside)

    def state_dict(self) -> dict[str, Any]:
        """All that `setup` and the calls since have made, as tensors and plain values."""
        skipped = {"task", "rng", "beside"} | self.hyperparameters().keys()
        state = {name: value for name, value in vars(self).items() if name not in skipped}
        inner = {name: value.state_dict() for name, value in state.items() if isinstance(value, PruningMethod)}
        return {"rng": self.rng.get_state(), "state": copy.deepcopy(state | inner)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; `setup` must have been called with the same task."""
        self.rng.set_state(state["rng"])
        for name, value in copy.deepcopy(state["state"]).items():
            if isinstance(inner := vars(self).get(name), PruningMethod):
                inner.load_state_dict(value)
            else:
                setattr(self, name, value)
