"""What a study of `dpbench tune` does: the method, its searched ranges, and one run of a trial."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from dpbench import catalog, store
from dpbench.errors import UsageError, check_keep
from dpbench.parameters import unknown
from dpbench.recipe import Recipe
from dpbench.spec import Grid, RunSpec, canonical, identity_hash
from dpbench.training import loading

SEED = 1000  # the first seed of tuning; a grid's seeds start at 0, so that final figures come from fresh seeds
MOST = 10_000  # trials of a study, seeds of a trial
KEEP = FloatDistribution(0.05, 1.0)  # where two objectives search it
VALUES = ("lr", "weight_decay")  # of a recipe that can be searched, from a tenth of the recipe's own to ten times it
RECIPE = "recipe."  # before the name of such a value among a trial's parameters
RATE = f"{RECIPE}lr"
DIGITS = 4  # of a real parameter: enough for any effect, and readable

Space = dict[str, BaseDistribution]


@dataclass(frozen=True)
class Plan:
    """What one study does. `method` may fix parameters in brackets; `grid` gives recipe, budget and final seeds."""

    method: str
    dataset: str
    model: str
    keep: float
    trials: int
    seeds: int
    grid: Grid
    params: tuple[str, ...] = ()  # the parameters to search; none given: those that `space` finds
    recipe: tuple[str, ...] = ()  # the values of the recipe to search beside them
    two_objectives: bool = False
    storage: str | None = None  # a database's URL or a journal's path
    data_root: Path | None = None
    device: str | None = "cpu"  # None: each worker's own
    data: str = dataclasses.field(init=False)  # the fingerprint of the samples: workers, which may load others, keep it

    def __post_init__(self) -> None:
        for value, option in ((self.trials, "--trials"), (self.seeds, "--seeds")):
            if not 1 <= value <= MOST:
                raise UsageError(f"{option} {value}: a number from 1 to {MOST:,}")
        if self.grid.devices > 1:
            what = f"{self.grid.name}: devices = {self.grid.devices}; trials run on one device each"
            raise UsageError(f"{what}; tune by the grid without devices, and give dpbench run --devices")
        check_keep(self.keep, f"--keep {self.keep:g}")
        catalog.load_dataset(self.dataset)
        catalog.check_model(self.model)
        method = catalog.load_method(self.method)
        for name in self.recipe:
            if name not in VALUES:
                raise unknown("value of a recipe that can be searched", name, list(VALUES))
            if not getattr(self.base, name):
                raise UsageError(f"--recipe {name}: it is 0 in the recipe, and it is searched around that")
        fixed = method.requires().fixed_keep
        if fixed is not None and (self.two_objectives or not self.recipe):
            raise UsageError(f"{self.method} keeps a fixed share of the samples; there is nothing to tune but --recipe")
        object.__setattr__(self, "keep", self.keep if fixed is None else fixed)
        space = self.space(self.keep)
        for name in self.params:
            if name not in space:
                raise UsageError(f"{self.method}: {name!r} cannot be searched; {_searchable(self.method)}")
        if not space:
            raise UsageError(f"{self.method} has no parameters to tune; {_searchable(self.method)}")
        found = loading.fingerprints([self.dataset], self.data_root)
        object.__setattr__(self, "data", found[self.dataset])

    @property
    def name(self) -> str:
        """The study's name: what is tuned, and a digest of all that its values depend on."""
        content = {
            "identity": self.spec({}, self.keep, SEED).identity,  # of the first run, which has all that all share
            **{key: getattr(self, key) for key in ("seeds", "two_objectives")},
            "searched": sorted(self.space(self.keep)),
        }
        words = [self.short, self.dataset, self.model]
        return f"{slug('-'.join(words))}-keep{self.keep:g}-{identity_hash(content)[:8]}"

    @property
    def short(self) -> str:
        """The method's name without parameters."""
        return catalog.parse(catalog.resolve("methods", self.method))[0]

    @property
    def folder(self) -> Path:
        """Where the study's files are."""
        return store.home() / "tune" / self.name

    @property
    def fixed(self) -> dict[str, Any]:
        """The parameters that the method's text fixes."""
        return catalog.parse(self.method)[1]

    @property
    def base(self) -> Recipe:
        """The recipe that the method has in the grid."""
        return self.grid.recipe_of(self.dataset, self.model, self.method)

    @property
    def default(self) -> dict[str, Any]:
        """What is tried first, and None for what the method works out itself."""
        method, base = catalog.load_method(self.method), self.base
        own = {name: getattr(method, name) for name in self.space(self.keep) if not name.startswith(RECIPE)}
        return own | {f"{RECIPE}{name}": getattr(base, name) for name in self.recipe} | {"keep": self.keep}

    def space(self, keep: float) -> Space:
        """What is searched at this share kept: every declared range, but for what is fixed, and the recipe's values."""
        found = declared(self.short)
        chosen = self.params
        for at in catalog.at_least_keep(self.short):  # it is searched alone, in [keep, high]
            low, high = found[at].low, found[at].high  # type: ignore[attr-defined]
            found[at] = FloatDistribution(max(keep, low), high)
            chosen = chosen or (at,)
        own = {
            name: where for name, where in found.items() if name not in self.fixed and (not chosen or name in chosen)
        }
        return own | {f"{RECIPE}{name}": self._around(name) for name in self.recipe}

    def _around(self, name: str) -> FloatDistribution:
        value = getattr(self.base, name)
        low = max(rounded(value / 10), self.base.lr_min if name == "lr" else 0)
        return FloatDistribution(low, rounded(value * 10), log=True)

    def text(self, params: dict[str, Any]) -> str:
        """The method with these parameters, as another command can read it too; those of the recipe are left out."""
        name, fixed = catalog.parse(catalog.elsewhere("methods", self.method))
        return catalog.label(name, fixed | {key: one for key, one in params.items() if not key.startswith(RECIPE)})

    def spec(self, params: dict[str, Any], keep: float, seed: int) -> RunSpec:
        """One run of a trial; gradients are not probed."""
        method = canonical(self.text(params))
        return RunSpec(
            dataset=self.dataset,
            model=self.model,
            method=method,
            keep=keep,
            seed=seed,
            recipe=self.grid.recipe_of(self.dataset, self.model, method).changed(of_recipe(params)),
            budget=self.grid.budget,
            probe={"every": 0},
            data=self.data,
        )


def declared(name: str) -> Space:
    """The ranges that a method's parameters declare; one without a range, or with an open end, keeps its default."""
    found: Space = {}
    for field in catalog.searched(name):
        low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
        if choices is not None:
            found[field.name] = CategoricalDistribution(choices)
        else:
            whole = isinstance(low if field.default is None else field.default, int)
            kind = IntDistribution if whole else FloatDistribution
            found[field.name] = kind(low, high, log=field.metadata["log"])
    return found


def of_recipe(params: dict[str, Any]) -> dict[str, Any]:
    """The values of the recipe among a trial's parameters, by their names in the recipe."""
    return {name.removeprefix(RECIPE): value for name, value in params.items() if name.startswith(RECIPE)}


def inside(value: Any, where: BaseDistribution) -> bool:
    """Whether a value lies where it is searched; None, which the method works out itself, does not."""
    if isinstance(where, CategoricalDistribution):
        return value in where.choices
    return value is not None and where.low <= value <= where.high  # type: ignore[attr-defined]


def rounded(value: float) -> float:
    """The value to four digits."""
    return float(f"{value:.{DIGITS}g}")


def _searchable(method: str) -> str:
    names = declared(catalog.parse(catalog.resolve("methods", method))[0])
    return f"it declares {', '.join(names)}" if names else "a range is declared by param(default, low=..., high=...)"


def slug(text: str) -> str:
    """The text as part of a file's name."""
    return re.sub(r"[^\w.]+", "-", text, flags=re.ASCII)[:80].strip("-")
