"""What is to be run: one run (a cell of a grid) with its content hash, and a grid; recipes are in `dpbench.recipe`."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)

from dpbench import beside, catalog, source
from dpbench.errors import UsageError
from dpbench.plain_yaml import brief
from dpbench.recipe import MOST, Changes, Recipe, named
from dpbench.setting import Setting
from dpbench.tuned import Tuned, listed

CELLS = 100_000  # of a grid
NAME = 120  # bytes of a grid's name, which becomes part of file names
PROTOCOL = 4  # raised when the runner changes what a number means, so that old results are not taken for new ones

Row = tuple[str, str, str, float]  # dataset, model, method, keep


class RunSpec(Setting):
    """One run. `method`, `dataset` and `model` are names with parameters; `method` is in its canonical form.

    `data` is the fingerprint of the dataset's samples. Without it a spec can be read, not run.
    """

    dataset: str
    model: str
    method: str
    keep: float = Field(gt=0, le=1)
    seed: int = Field(ge=0)
    recipe: Recipe
    data: str = ""

    @property
    def row(self) -> Row:
        """The leaderboard row that this run belongs to."""
        return (self.dataset, self.model, self.method, self.keep)

    @property
    def identity(self) -> dict[str, Any]:
        """All that the run's numbers depend on: the fields, the protocol, and the code of what the fields name."""
        sources = source_digests(self.dataset, self.model, self.method)
        return {"spec": self.model_dump(mode="json"), "protocol": PROTOCOL, "sources": sources}

    @property
    def hash(self) -> str:
        """The hash of the identity, which names the run."""
        return identity_hash(self.identity)

    @property
    def title(self) -> str:
        """A short name for people."""
        return f"{self.method} keep={self.keep:g} seed={self.seed}"


def row_of(named: dict[str, Any]) -> Row:
    """The leaderboard row that is named by a run's spec as JSON, or by a line of the table."""
    return (named["dataset"], named["model"], named["method"], named["keep"])


def identity_hash(identity: dict[str, Any]) -> str:
    """The hash of an identity, read from a result or just made."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


@cache
def source_digests(dataset: str, model: str, method: str | None = None) -> dict[str, str]:
    """The digests of what these texts name, and of the methods that the method uses.

    They are made once: it is the code that this process has imported that runs, whatever is written into files since.
    """
    used = catalog.load_method(method) if method else None
    methods = [method, *(catalog.resolve("methods", text) for text in used.uses())] if method and used else []
    models = [model, *([used.beside["proxy_model"]] if used and "proxy_model" in used.beside else [])]
    named = [("datasets", dataset), *(("models", text) for text in models), *(("methods", text) for text in methods)]
    names = [(kind, catalog.parse(text)[0]) for kind, text in named]
    found = {f"{kind}/{name}": catalog.source_digest(kind, name) for kind, name in names}
    for text in models:
        found |= {f"models/{text}:{key}": source.content(path) for key, path in catalog.model_files(text).items()}
    found |= {module.__name__: source.digest(module) for module in (used.modules() if used else ())}
    return found | (beside.digests(used) if used else {})


def _unique(values: list[Any]) -> list[Any]:
    twice = [brief(value) for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"{', '.join(sorted(twice)[:3])} is given twice")
    return values


def check_name(name: str) -> str:
    """Return the name of a grid; ValueError for one that cannot name its files."""
    if len(name.encode(errors="replace")) > NAME or not re.fullmatch(r"\w[\w.-]*", name):
        allowed = f"letters, digits, '-', '_' and '.' only, beginning with a letter or a digit, at most {NAME} bytes"
        raise ValueError(f"{brief(name)} cannot name a grid: {allowed}")
    return name


def _each(canonical: Callable[[str], str]) -> AfterValidator:
    """The canonical form of each text of a list."""

    def written(texts: list[str]) -> list[str]:
        try:
            return [canonical(text) for text in texts]
        except UsageError as error:
            raise ValueError(str(error)) from None

    return AfterValidator(written)


def _used(given: Any) -> Any:
    """An executor by its name alone, or by `use` with its options."""
    if isinstance(given, dict) and "use" not in given:
        raise ValueError("use: NAME is missing")
    return {"use": given} if isinstance(given, str) else given


class Grid(Setting):
    """dataset x model x method x keep x seed, with a recipe: its values, or `use: NAME` and what is changed of it.

    Values of it may be changed for a dataset or a model, named with or without its parameters.
    """

    name: Annotated[str, AfterValidator(check_name)]
    description: str = ""
    datasets: Annotated[
        list[str], Field(min_length=1), _each(partial(catalog.resolve, "datasets")), AfterValidator(_unique)
    ]
    models: Annotated[
        list[str], Field(min_length=1), _each(partial(catalog.resolve, "models")), AfterValidator(_unique)
    ]
    methods: Annotated[list[str], Field(min_length=1), AfterValidator(_unique)]
    keep: Annotated[list[Annotated[float, Field(gt=0, le=1)]], AfterValidator(_unique)]
    keep_schedules: Annotated[list[beside.Scheduled], AfterValidator(_unique)] = []  # those that stand in `keep`
    proxy_model: str | None = None
    seeds: int = Field(ge=1)
    # the numbers of seeds at which verdicts may be read, where seeds are added until rows are separated
    looks: list[Annotated[int, Field(ge=3, le=MOST)]] = []
    delta: float = Field(0.5, gt=0)  # points of accuracy within which a row may be called equivalent to full training
    recipe: Annotated[Recipe, BeforeValidator(named)]
    recipe_by_dataset: Changes = {}
    recipe_by_model: Changes = {}  # after those by dataset
    executor: Annotated[dict[str, str | int | float | bool], BeforeValidator(_used)] = {"use": "local"}
    tuned: Annotated[list[Tuned], BeforeValidator(listed)] = []  # what `dpbench tune` found for rows

    @model_validator(mode="before")
    @classmethod
    def _apart(cls, given: Any) -> Any:
        """Put schedules of `keep`, which are mappings, where they belong; one alone needs no list."""
        if not isinstance(given, dict) or "keep" not in given:
            return given
        listed = [given["keep"]] if isinstance(given["keep"], dict) else given["keep"]
        if not isinstance(listed, list):
            return given
        schedules = [item for item in listed if isinstance(item, dict)]
        plain = [item for item in listed if not isinstance(item, dict)]
        return given | {"keep": plain} | ({"keep_schedules": schedules} if schedules else {})

    @model_validator(mode="after")
    def _affordable(self) -> Grid:
        keeps = len(self.keep) + len(self.keep_schedules)
        if not keeps:
            raise ValueError("keep has no share")
        parts = (len(self.datasets), len(self.models), len(self.methods), keeps, self.seeds)
        if math.prod(parts) > CELLS:
            counts = "{} datasets x {} models x {} methods x {} keeps x {} seeds".format(*parts)
            raise ValueError(f"{counts} are {math.prod(parts):,} cells; a grid has at most {CELLS:,}")
        for dataset, model in itertools.product(self.datasets, self.models):
            recipe = self.changed_recipe(dataset, model)
            for one in [recipe, *(recipe.changed(one.recipe) for one in self.tuned)]:
                least = min([one.batch_size, *(size for _, size in one.batch_size_at)])
                if self.devices > least:
                    raise ValueError(f"devices = {self.devices} have to share batches of {least} samples")
        return self

    @model_validator(mode="after")
    def _rising(self) -> Grid:
        if any(later <= earlier for earlier, later in itertools.pairwise(self.looks)):
            raise ValueError("looks are numbers of seeds, each larger than the one before")
        return self

    def looked_at_as(self, old: Grid | None) -> Grid:
        """The grid with the looks that were planned before; UsageError where it has others."""
        if old is None or not old.looks or self.looks == old.looks:
            return self
        if self.looks:
            before, now = (", ".join(map(str, grid.looks)) for grid in (old, self))
            raise UsageError(
                f"verdicts of {self.name} were planned to be read at {before} seeds, not at {now}: looks cannot be "
                f"changed once runs were seen; take --max-seeds {old.looks[-1]}, or a grid of another name"
            )
        return self.model_copy(update={"looks": old.looks})

    def changed_recipe(self, dataset: str, model: str) -> Recipe:
        """The recipe with what is changed for a dataset and a model; ValueError where it does not go together."""
        recipe = self.recipe.changed_for(dataset, "recipe_by_dataset", self.recipe_by_dataset)
        return recipe.changed_for(model, "recipe_by_model", self.recipe_by_model)

    def recipe_at(self, row: Row) -> Recipe:
        """The recipe of a row, with what tuning found for it."""
        recipe, found = self.changed_recipe(*row[:2]), self.tuning(row)
        return recipe.changed(found.recipe) if found else recipe

    def tuning(self, row: Row) -> Tuned | None:
        """What tuning found for a row, which has the parameters that were chosen; None where it was not tuned."""
        dataset, model, method, keep = row
        return next((one for one in self.tuned if one.becomes == method and one.at(dataset, model, keep)), None)

    def as_listed(self, row: Row) -> str:
        """The method of a row as the grid lists it, whatever parameters tuning has chosen for it there."""
        found = self.tuning(row)
        return found.method if found else row[2]

    def pairs(self) -> list[tuple[str, str]]:
        """Each dataset with each model that takes its kind; UsageError for one that is left alone."""
        found = [(data, model) for data in self.datasets for model in self.models if catalog.fits(data, model)]
        for data in self.datasets:
            if all(data != paired for paired, _ in found):
                raise UsageError(
                    f"no model of the grid takes {data}; for its kind: {', '.join(catalog.models_for(data))}"
                )
        for model in self.models:
            if all(model != paired for _, paired in found):
                raise UsageError(f"the model {model} takes none of the grid's datasets: {', '.join(self.datasets)}")
        return found

    def recipe_of(self, dataset: str, model: str, method: str) -> Recipe:
        """The recipe of a cell; UsageError where the method cannot be trained so on the dataset."""
        recipe = self.changed_recipe(dataset, model)
        chosen, kind = catalog.load_method(method), catalog.load_dataset(dataset).kind
        why = recipe.unfit(kind, chosen)
        if why is None and self.shifts and kind != "images":
            why = f"shifts is for images, not for {kind}"
        proxy = chosen.beside.get("proxy_model")
        if why is None and proxy and not catalog.fits(dataset, proxy):
            why = f"the proxy's model {proxy} does not take its kind of samples"
        if why is not None:
            raise UsageError(f"{dataset} with {method}: {why}")
        return recipe

    def rows(self) -> list[tuple[str, float]]:
        """Each method with each share that it keeps; where it follows a schedule, its name says so."""
        found: dict[tuple[str, float], None] = {}
        for text in self.methods:
            method = canonical(text if self.proxy_model is None else beside.offered(text, proxy_model=self.proxy_model))
            fixed = catalog.load_method(method).requires().fixed_keep
            plain = [(method, keep) for keep in (self.keep if fixed is None else [fixed])]
            scheduled = [] if fixed is not None else [(_follow(method, s.shape), s.mean) for s in self.keep_schedules]
            found |= dict.fromkeys(plain + scheduled)
        return list(found)

    def runs(self, data: Mapping[str, str] | None = None) -> list[RunSpec]:
        """Every cell, seed by seed, so that an interrupted grid has whole seeds; a fixed keep makes one row.

        `data` has the fingerprint of each dataset's samples; without it the cells are not to be run. UsageError where
        tuning gives two methods of the grid one name.
        """
        first: dict[Row, RunSpec] = {}
        for (dataset, model), (method, keep) in itertools.product(self.pairs(), self.rows()):
            here = (one for one in self.tuned if one.method == method and one.at(dataset, model, keep))
            found = next(here, None)
            method = found.becomes if found else method
            recipe = self.recipe_of(dataset, model, method)
            spec = RunSpec(
                dataset=dataset,
                model=model,
                method=method,
                keep=keep,
                seed=0,
                recipe=recipe.changed(found.recipe) if found else recipe,
                budget=self.budget,
                probe=self.probe,
                data=(data or {}).get(dataset, ""),
                shifts=self.shifts,
                devices=self.devices,
                sync_batchnorm=self.sync_batchnorm,
            )
            if first.setdefault(spec.row, spec) != spec:
                raise UsageError(f"{self.name}: two of the grid's methods are tuned to {method} at keep {keep:g}")
        every = (spec.model_copy(update={"seed": seed}) for seed in range(self.seeds) for spec in first.values())
        return list(every)


def _follow(method: str, shape: str) -> str:
    """The method with a schedule of that shape, if it can follow one."""
    return method if shape == "constant" else canonical(beside.offered(method, keep_schedule=shape))


def canonical(text: str) -> str:
    """Write a method's name with the hyper-parameters that are not their defaults, so that equal runs hash alike."""
    name, _ = catalog.parse(catalog.resolve("methods", text))
    defaults = catalog.load_method(name).hyperparameters()
    given = catalog.load_method(text).hyperparameters()
    return catalog.label(name, {key: value for key, value in given.items() if value != defaults.get(key)})
