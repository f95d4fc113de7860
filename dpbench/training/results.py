"""What the folder of a run holds, checked as it is read: the result, whether it is final, and the selections."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dpbench import store
from dpbench.spec import RunSpec, identity_hash
from dpbench.store import Selections

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Epoch(_Part):
    __pydantic_extra__: dict[str, Number | None]
    epoch: Count


class _Diagnostics(_Part):
    kept_per_class: list[Number | None] = []
    accuracy_per_class: list[Number | None] = []
    coverage: list[Number] = []
    uses_histogram: list[Count] = []
    accuracy_worst_class: Number | None = None
    noisy_share: Number | None = None
    never_used: Count | None = None


class _Result(_Part):
    """A result as it is written by the runner."""

    hash: str = Field(pattern=r"^[0-9a-f]{16}$")
    spec: RunSpec
    status: Literal["FINISHED", "DIVERGED", "FAILED"]
    reason: str = ""
    started: Number
    ended: Number | None = None
    kind: str = ""
    identity: dict[str, Any] | None = None
    environment: dict[str, Any]
    hyperparameters: dict[str, Any] = {}
    samples: dict[str, Count] = {}
    metrics: dict[str, Number | None] = {}
    epochs: list[_Epoch] = []
    diagnostics: _Diagnostics | None = None

    @model_validator(mode="after")
    def _whole(self) -> _Result:
        if self.status != "FINISHED":
            if not self.reason:
                raise ValueError(f"{self.status} without a reason")
            return self
        for name in ("accuracy", "prune_ratio"):
            if self.metrics.get(name) is None:
                raise ValueError(f"FINISHED without {name}")
        return self


def check(content: Any, run_hash: str) -> dict[str, Any]:
    """Return a run's result without metrics that are null; ValueError unless it is one, and of this run."""
    try:
        parsed = _Result.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "it"
        raise ValueError(f"{where}: {problem['msg']}") from None
    if parsed.hash != run_hash:
        raise ValueError(f"it is the result of the run {parsed.hash}")
    own = parsed.identity
    if own is not None and (identity_hash(own) != run_hash or own.get("spec") != content["spec"]):
        raise ValueError("what it says of itself is not what its hash is of")
    metrics = {name: value for name, value in content.get("metrics", {}).items() if value is not None}
    result: dict[str, Any] = content | ({"metrics": metrics} if "metrics" in content else {})
    return result


def read_result(run_hash: str) -> dict[str, Any] | None:
    """A run's result, None where there is none; a bad one is set aside, and its run is made again."""
    return store.read_json(store.run_folder(run_hash) / "result.json", partial(check, run_hash=run_hash))


def final(run_hash: str) -> dict[str, Any] | None:
    """The result of a run that was carried to its end, None for others; the mark `done` is written last."""
    if not (store.run_folder(run_hash) / "done").is_file():
        return None
    result = read_result(run_hash)
    return result if result is not None and result["status"] != "FAILED" else None


def is_done(run_hash: str) -> bool:
    """Whether the run was carried to its end, and its result is whole."""
    return final(run_hash) is not None


def read_selections(result: dict[str, Any]) -> Selections | None:
    """What a run has trained on, None where that is not there; a bad file is set aside, and its run is made again."""
    folder = store.run_folder(result["hash"])
    path = folder / "selections.npz"
    there = path.is_file()
    found = store.read(path, partial(check_selections, result=result))
    if there and found is None:
        (folder / "done").unlink(missing_ok=True)
    return found


def check_selections(source: Any, result: dict[str, Any]) -> Selections:
    """Read the selections of this run; ValueError for others, and for more than the run can have."""
    n, epochs = result.get("samples", {}).get("train"), len(result.get("epochs", []))
    room = store.MOST_UNPACKED if n is None else 8 * n * (epochs + 3) + 8 * epochs + 2**20
    found = store.read_selections(source, min(room, store.MOST_UNPACKED))
    if found.n != (found.n if n is None else n):
        raise ValueError(f"of {found.n} samples, where the run has {n}")
    if found.n * len(found.epochs) > store.MOST_UNPACKED:
        raise ValueError(f"{len(found.epochs)} epochs of {found.n} samples are too many")
    if found.config.get("hash", result["hash"]) != result["hash"]:
        raise ValueError(f"the selections of the run {found.config['hash']}")
    return found
