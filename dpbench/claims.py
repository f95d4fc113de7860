"""What is claimed of a grid before it is run: a list of claims in GRID.claims.yaml, beside GRID.yaml."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from dpbench import places, plain_yaml, tuned
from dpbench.errors import UsageError
from dpbench.grid_file import explained
from dpbench.spec import Grid, canonical

ORDER = "order-predicts-order"
TEXT = 300  # characters of a claim
MOST = 100  # claims of a file
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=TEXT)]
Share = Annotated[float, Field(gt=0, le=1)]


class Claim(BaseModel):
    """What is claimed of a grid's rows, at each of `keep` and on each of `datasets`; at all, if none is named.

    "better" and "equivalent" compare a row with the method `against` at its keep; with `at_cost`, with random per epoch
    at the row's own cost. Of several `methods`, or of all of a `kind`, it is enough that one is so at each keep and
    dataset. "order-predicts-order" is about all rows, or those of `methods`: that their order on one dataset is like
    that on the others. `margin` is in accuracy points, for an order in Kendall's tau: better by more than it, or
    equivalent within it. `alpha` is how often the claims of a file may be called held or refuted falsely.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Text
    test: Literal["better", "equivalent", "order-predicts-order"]
    methods: tuple[str, ...] = ()
    kind: Literal["static", "epoch", "batch"] | None = None
    keep: tuple[Share, ...] = ()
    against: str = ""
    at_cost: bool = False
    datasets: tuple[str, ...] = ()
    measure: Literal["accuracy"] = "accuracy"
    margin: float = Field(0.0, ge=0, le=100)
    alpha: float = Field(0.05, gt=0, lt=0.5)

    @model_validator(mode="after")
    def _whole(self) -> Claim:
        if not self.text.isprintable():
            raise ValueError("text: a line that can be printed is needed")
        if self.test == ORDER:
            if self.against or self.at_cost or self.kind:
                raise ValueError(f"{ORDER} compares datasets; against, at_cost and kind are not used")
            return self
        if not self.against or bool(self.methods) == bool(self.kind):
            raise ValueError(f"{self.test} compares methods, or all of a kind, with the method that `against` names")
        if self.test == "equivalent" and not self.margin:
            raise ValueError("margin is missing: the points within which the rows are claimed to be equivalent")
        if self.at_cost and self.against != "uniform_epoch":
            raise ValueError("at_cost goes with against: uniform_epoch")
        return self


_LIST: TypeAdapter[list[Claim]] = TypeAdapter(Annotated[list[Claim], Field(max_length=MOST)])


class Registered(BaseModel):
    """The text of a file of claims, and when `dpbench run` first saw it, in seconds; later runs knew of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: float | None = Field(ge=-1e10, le=1e11)  # None: nobody has run the grid with it yet
    text: str = Field(max_length=plain_yaml.BYTES)

    @cached_property
    def sha256(self) -> str:
        """The hash of the file's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def claims(self) -> list[Claim]:
        """The claims; UsageError for what are none."""
        return parse(self.text, "claims")


def register(known: Iterable[Registered], text: str | None, now: float) -> tuple[Registered, ...]:
    """Add a file's text, which becomes the last and is the one that counts; one that is known keeps its date."""
    known = tuple(known)
    if text is None or (known and known[-1].text == text):
        return known
    same = [one for one in known if one.text == text]
    return (*(one for one in known if one.text != text), *(same or [Registered(date=now, text=text)]))


def readable(found: Iterable[Registered]) -> tuple[Registered, ...]:
    """Those that are claims, of what a stranger says are some."""

    def is_one(one: Registered) -> bool:
        try:
            return bool(one.claims)
        except UsageError:
            return False

    return tuple(filter(is_one, found))


def merged(ours: Iterable[Registered], theirs: Iterable[Registered]) -> tuple[Registered, ...]:
    """Both, each at its earlier date; of ours the last stays the last."""
    found = {one.text: one for one in theirs}
    for one in ours:
        known = found.pop(one.text, one)  # popped, so that ours come last
        found[one.text] = min(one, known, key=lambda each: math.inf if each.date is None else each.date)
    return tuple(found.values())


def of_file(grid: str) -> str | None:
    """The text of the claims beside a built-in grid, or beside a grid's file; None if there are none.

    What is claimed of a built-in grid is claimed of its tuned track, too.
    """
    path = _beside(grid)
    return plain_yaml.read(path) if path else None


def read(name: str, grid: Grid) -> str | None:
    """The text of the claims beside a grid, checked against it; UsageError in one line for each fault."""
    path = _beside(name)
    if path is None:
        return None
    text = plain_yaml.read(path)
    _check(parse(text, path.name), path.name, grid)
    return text


def _beside(grid: str) -> Path | None:
    own = grid.endswith((".yaml", ".yml"))
    files = [Path(grid)] if own else [places.LEADERBOARDS / f"{name}.yaml" for name in (grid, tuned.base(grid)) if name]
    beside = [file.with_suffix(".claims.yaml") for file in files]
    return next((path for path in beside if path.exists()), None)


def parse(text: str, where: str) -> list[Claim]:
    """Read a list of claims; UsageError names file, line, key and what is allowed."""
    content, node = plain_yaml.load(text, where)
    if not isinstance(content, list):
        raise UsageError(f"{where}: a list of claims is needed, each with {', '.join(Claim.model_fields)}")
    try:
        return _LIST.validate_python(content)
    except ValidationError as error:
        raise UsageError(*explained(error, where, node, Claim)) from None


def _check(claims: list[Claim], where: str, grid: Grid) -> None:
    """Refuse a claim about what is not in the grid."""
    rows = grid.rows()
    methods = list(dict.fromkeys(method for method, _ in rows))
    for i, claim in enumerate(claims, 1):
        for method in filter(None, [*claim.methods, claim.against]):
            try:
                written = canonical(method)
            except UsageError as error:
                raise UsageError(f"{where}: claim {i}: {error}") from None
            if method not in methods:
                hint = f"write {written}" if written in methods else f"it has {', '.join(methods)}"
                raise UsageError(f"{where}: claim {i}: {method} is not in the grid {grid.name}; {hint}")
        _among(claim.datasets, grid.datasets, f"{where}: claim {i}: the dataset", grid.name)
        keeps = sorted({keep for method, keep in rows if not claim.methods or method in claim.methods})
        _among(claim.keep, keeps, f"{where}: claim {i}: keep", grid.name)


def _among(asked: Iterable[Any], known: list[Any], what: str, grid: str) -> None:
    for one in asked:
        if one not in known:
            raise UsageError(f"{what} {one} is not in the grid {grid}; it has {', '.join(map(str, known))}")
