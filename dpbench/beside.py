"""Parameters that a method takes beside its own: they change what the training gives it, not what it does.

`embedding=FILE.npy` or `timm:NAME@WEIGHTS` takes the place of the proxy's embedding, `proxy_model` trains the proxy
with another model than the target, and `keep_schedule` lets the share kept change from epoch to epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dpbench import source
from dpbench.errors import UsageError
from dpbench.recipe import Strict

if TYPE_CHECKING:
    from dpbench.method import PruningMethod

SHAPES = ("rising", "falling", "oscillating")
OF_THEIR_OWN = {  # why these, of which `requires` does not tell it, cannot follow a schedule
    **dict.fromkeys(
        ("importance_sampling", "orderdp_step", "progressive_dropout", "proxy_mask"), "it sets its share once"
    ),
    "ordered_sgd": "its share follows the training accuracy",
    "dynams": "it chooses every few epochs",
}


class Scheduled(Strict):
    """A share kept that changes from epoch to epoch, `mean` of all epochs."""

    mean: float = Field(gt=0, le=1)
    shape: Literal["constant", "rising", "falling", "oscillating"]


def _no_embedding(method: PruningMethod, name: str) -> str | None:
    stated = method.requires()
    read = stated.proxy is not None and "embedding" in stated.signals
    return None if read else "it reads no embedding of a proxy"


def _no_proxy(method: PruningMethod, name: str) -> str | None:
    return None if method.requires().proxy is not None else "it has no proxy"


def _no_schedule(method: PruningMethod, name: str) -> str | None:
    from dpbench.method import PruningMethod  # not before a method is loaded: torch takes a second to import

    stated = method.requires()
    if method.kind() == "static" or stated.fixed_keep is not None:
        return "it chooses once"
    if stated.period > 1:
        return "it chooses every few epochs"
    if type(method).epochs is not PruningMethod.epochs:
        return "it sets its share once"
    return OF_THEIR_OWN.get(name)


REFUSALS: dict[str, Callable[[PruningMethod, str], str | None]] = {
    "embedding": _no_embedding,
    "proxy_model": _no_proxy,
    "keep_schedule": _no_schedule,
}


def split(cls: type[PruningMethod], params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters that are the method's own, and those beside them; a field of its own goes before."""
    own = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    beside = {key: value for key, value in params.items() if key in REFUSALS and key not in own}
    return {key: value for key, value in params.items() if key not in beside}, beside


def give(method: PruningMethod, name: str, params: dict[str, Any]) -> None:
    """Let the method have the parameters beside its own; UsageError for one that it cannot take."""
    from dpbench import catalog  # which calls this

    for key, value in params.items():
        if why := REFUSALS[key](method, name):
            raise UsageError(f"{name}: {key} is not for this method, {why}")
        if not isinstance(value, str):
            raise UsageError(f"{name}: {key} = {value!r} is not text")
        if key == "keep_schedule" and value not in SHAPES:
            raise UsageError(f"{name}: keep_schedule = {value!r} is not one of {', '.join(SHAPES)}")
        if key == "proxy_model":
            catalog.check_model(value)
            params = params | {key: catalog.resolve("models", value)}
    if params:
        method.beside = params


def offered(text: str, **params: str) -> str:
    """The method that `text` names with those of the parameters that it takes and does not give itself."""
    from dpbench import catalog  # as above

    name, given = catalog.parse(catalog.resolve("methods", text))
    method = catalog.load_method(text)
    fitting = {key: value for key, value in params.items() if key not in given and not REFUSALS[key](method, name)}
    return catalog.label(name, given | fitting)


def weights_of(embedding: str) -> tuple[str, Path]:
    """The model, empty for none, and the file that `FILE.npy` or `timm:NAME@WEIGHTS` name; UsageError."""
    name, at, file = embedding.removeprefix("timm:").partition("@")
    model = name if embedding.startswith("timm:") else ""
    if (model and not (at and file)) or not (model or embedding.endswith(".npy")):
        raise UsageError(f"embedding = {embedding!r}: FILE.npy or timm:NAME@WEIGHTS is needed")
    path = Path(file if model else embedding).expanduser()
    if not path.is_file():
        raise UsageError(f"embedding = {embedding!r}: no file {path}")
    return model, path


def digests(method: PruningMethod) -> dict[str, str]:
    """The digest of the file that the embeddings come from, if it is one."""
    if "embedding" not in method.beside:
        return {}
    return {"embedding": source.content(str(weights_of(method.beside["embedding"])[1]))}
