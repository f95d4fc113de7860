"""A run's result, typed: what it consists of, how it is written and read, and the selections beside it."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Annotated, Any, Literal, NotRequired, TypeAlias, TypeGuard, TypeVar, cast

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from dpbench import store
from dpbench.predictions import Predictions
from dpbench.selections import Selections
from dpbench.spec import RunSpec, identity_hash

VERSION: Literal[1] = 1  # of a result and of a packed board, in the file; those from before say none
DIGITS = 6  # significant digits of per-epoch records in a packed board; accuracies and a run's metrics stay exact

T = TypeVar("T")
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0)]


def _numbered(record: Any) -> Any:
    if not isinstance(record, dict) or type(number := record.get("epoch")) is not int or number < 0:
        raise ValueError("an epoch without its number")
    return record


def _is_spec(spec: dict[str, Any]) -> dict[str, Any]:
    RunSpec.model_validate(spec)
    return spec


# "epoch", its number from 0, and the values that `measures` declares for an epoch; NaN is what is not known.
EpochRecord: TypeAlias = Annotated[dict[str, Annotated[float, Field(strict=True)]], BeforeValidator(_numbered)]
Status: TypeAlias = Literal["FINISHED", "DIVERGED", "FAILED"]


class Diagnostics(TypedDict, total=False):
    """Which samples were used, how the classes fared, and the calibration; a class without a sample has null."""

    kept_per_class: list[Number | None]
    accuracy_per_class: list[Number | None]
    accuracy_worst_class: Number | None
    calibration_error: Number
    noisy_share: Number | None
    duplicate_share: Number | None
    coverage: list[Number]  # by epoch, the share of the samples that were used by then
    uses: dict[str, Number]
    never_used: Count | None
    uses_histogram: list[Count]  # at i the samples that were used in i epochs


class Failure(TypedDict):
    """How a run failed; `repeats` where other seeds would fail alike."""

    status: Status
    reason: str
    repeats: bool


class Trained(TypedDict, total=False):
    """What a training that reached its end adds to a result; the records are there of one that diverged, too."""

    kind: str
    hyperparameters: dict[str, Any]
    samples: dict[str, Count]
    metrics: dict[str, Number]  # by the name of the measure, as far as they are known
    epochs: list[EpochRecord]
    diagnostics: Diagnostics


class RunResult(Trained):
    """A run's result; what is not required may be absent, also because the file is an old one."""

    version: NotRequired[Literal[1]]
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    spec: Annotated[dict[str, Any], AfterValidator(_is_spec)]
    status: Status
    reason: NotRequired[str]
    repeats: NotRequired[bool]
    started: Number
    ended: NotRequired[Number]
    identity: NotRequired[dict[str, Any]]
    environment: dict[str, Any]


_RESULT = TypeAdapter(RunResult)


def is_finished(result: RunResult | None) -> TypeGuard[RunResult]:
    """Whether there is a result, and its training reached the end of the budget without diverging."""
    return result is not None and result["status"] == "FINISHED"


def check(content: Any, run_hash: str) -> RunResult:
    """Return a run's result, in which nulls are no metrics and NaN in epochs; ValueError unless it is of this run."""
    if isinstance(content, dict):
        content = content | {name: _without_nulls(content[name]) for name in ("metrics", "epochs") if name in content}
    try:
        _RESULT.validate_python(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "it"
        raise ValueError(f"{where}: {problem['msg']}") from None
    result = cast(RunResult, content)  # as it stands: a count stays an integer
    if result["status"] != "FINISHED" and not result.get("reason"):
        raise ValueError(f"{result['status']} without a reason")
    missing = {"accuracy", "prune_ratio"} - result.get("metrics", {}).keys()
    if result["status"] == "FINISHED" and missing:
        raise ValueError(f"FINISHED without {min(missing)}")
    if result["hash"] != run_hash:
        raise ValueError(f"it is the result of the run {result['hash']}")
    own = result.get("identity")
    if own is not None and (identity_hash(own) != run_hash or own.get("spec") != result["spec"]):
        raise ValueError("what it says of itself is not what its hash is of")
    return result


def _without_nulls(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: value for name, value in part.items() if value is not None}
    if isinstance(part, list):
        return [_nan_for_null(record) if isinstance(record, dict) else record for record in part]
    return part


def _nan_for_null(record: dict[str, Any]) -> dict[str, Any]:
    if None not in record.values():
        return record
    return {name: math.nan if value is None else value for name, value in record.items()}


def write(result: RunResult) -> None:
    """Write a run's result into its folder."""
    store.write_json(store.run_folder(result["hash"]) / "result.json", result)


def read_result(run_hash: str) -> RunResult | None:
    """A run's result, or None; a damaged file is renamed, and its run is made again."""
    return store.read_json(store.run_folder(run_hash) / "result.json", partial(check, run_hash=run_hash))


def final(run_hash: str) -> RunResult | None:
    """The result of a run that was carried to its end, None for others; the mark `done` is written last."""
    if not (store.run_folder(run_hash) / "done").is_file():
        return None
    result = read_result(run_hash)
    return result if result is not None and result["status"] != "FAILED" else None


def is_done(run_hash: str) -> bool:
    """Whether the run was carried to its end, and its result is whole."""
    return final(run_hash) is not None


def read_selections(result: RunResult) -> Selections | None:
    """The selections of a run, or None; a damaged file is renamed, and its run is made again."""
    return _read_beside(result, "selections.npz", check_selections)


def read_predictions(result: RunResult) -> Predictions | None:
    """What a run predicted of the test samples, or None; a damaged file is renamed, and its run is made again."""
    return _read_beside(result, "predictions.npz", check_predictions)


def _read_beside(result: RunResult, name: str, check: Callable[[Any, RunResult], T]) -> T | None:
    folder = store.run_folder(result["hash"])
    there = (folder / name).is_file()
    found = store.read(folder / name, lambda file: check(file, result))
    if there and found is None:
        (folder / "done").unlink(missing_ok=True)
    return found


def check_predictions(source: Any, result: RunResult) -> Predictions:
    """Read the predictions of this run; ValueError for others, and for more than the run can have."""
    n = result.get("samples", {}).get("test")
    found = Predictions.read(source, store.MOST_UNPACKED if n is None else 32 * n + 2**16)
    if n is not None and len(found.labels) != n:
        raise ValueError(f"of {len(found.labels)} samples, where the run tested {n}")
    right, accuracy = float(found.correct.mean()), result.get("metrics", {}).get("accuracy")
    if accuracy is not None and abs(right - accuracy) > 0.01 + 1 / len(found.labels):  # a GPU may say it otherwise
        raise ValueError(f"{right:.2%} of them are right, where the run has {accuracy:.2%}")
    return found


def check_selections(source: Any, result: RunResult) -> Selections:
    """Read the selections of this run; ValueError for others, and for more than the run can have."""
    n, epochs = result.get("samples", {}).get("train"), len(result.get("epochs", []))
    room = store.MOST_UNPACKED if n is None else 8 * n * (epochs + 3) + 8 * epochs + 2**20
    found = Selections.read(source, min(room, store.MOST_UNPACKED))
    if found.n != (found.n if n is None else n):
        raise ValueError(f"of {found.n} samples, where the run has {n}")
    if found.n * len(found.epochs) > store.MOST_UNPACKED:
        raise ValueError(f"{len(found.epochs)} epochs of {found.n} samples are too many")
    if found.config.get("hash", result["hash"]) != result["hash"]:
        raise ValueError(f"the selections of the run {found.config['hash']}")
    return found


def pack(content: dict[str, Any]) -> bytes:
    """Compress what a board consists of, `results` and `controls` by hash; the same content gives the same bytes."""
    short = {part: {key: _shortened(one) for key, one in content[part].items()} for part in ("results", "controls")}
    text = json.dumps(store.finite({"version": VERSION} | content | short), separators=(",", ":"), allow_nan=False)
    return gzip.compress(text.encode(), mtime=0)


def unpack(packed: bytes) -> dict[str, Any]:
    """Read what `pack` wrote, its results checked."""
    with gzip.open(BytesIO(packed)) as stream:
        content = store.load_json(store.bounded(stream, store.MOST_UNPACKED))
    if content.get("version", VERSION) != VERSION:
        raise ValueError(f"version {content['version']}, which this dpbench does not know")
    for part in ("results", "controls"):
        content[part] = {key: check(one, key) for key, one in content.get(part, {}).items()}
    return cast(dict[str, Any], content)


def _shortened(result: RunResult) -> RunResult:
    """Per-epoch records without digits that nobody reads."""

    def short(name: str, value: float) -> float:
        exact = name.startswith("accuracy") or not isinstance(value, float)
        return value if exact else float(f"{value:.{DIGITS}g}")

    records = [{name: short(name, value) for name, value in record.items()} for record in result.get("epochs", [])]
    return result | {"epochs": records}
