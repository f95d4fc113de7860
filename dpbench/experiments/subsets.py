"""Subsets as files: what a static method chooses, written for use anywhere; and a file taken in, to be trained on."""

from __future__ import annotations

import hashlib
import pickletools
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpbench import catalog, isolation, npz, published_lists, store
from dpbench.data import Data
from dpbench.errors import UsageError, check_keep
from dpbench.method import Selection
from dpbench.selections import Selections
from dpbench.spec import RunSpec
from dpbench.training import loading, runner
from dpbench.training.answers import selection_fault
from dpbench.training.ledger import Ledger

LINE = 32  # bytes of a file for each position that it may list
STEM = 40  # characters of a name before its hash


@isolation.strict()
def choose(spec: RunSpec, device: torch.device, data_root: Path | None = None) -> Selections:
    """Make the selection that a run of `spec`, of a static method, makes; nothing is trained but proxies."""
    method = catalog.load_method(spec.method)
    if method.kind() != "static":
        raise UsageError(
            f"{spec.method} chooses again during the training, so it has no single subset; "
            "the selections of each epoch lie in each run's selections.npz"
        )
    data = loading.data_of(spec, data_root)
    driver = runner.prepare(spec, data, device, Ledger())
    selection = driver.start(0, 1 / spec.recipe.epochs)
    order = selection.indices.argsort()
    return Selections(
        epochs=[selection.indices[order]],
        n=len(data.train),
        config={"hash": spec.hash} | spec.model_dump(mode="json"),
        positions=data.positions,
        weights=None if selection.weights is None else selection.weights[order],
        scores=runner.fixed_scores(driver.method),
    )


def take_in(file: Path, dataset: str, data: Data) -> tuple[str, int]:
    """Copy a file's subset to $DPBENCH_HOME/subsets, named by its content.

    Return the method that trains on it, and how many of the file's samples are left out. The file is one of ours, of
    one selection, or a list of positions among the dataset's own training samples: .npy, .npz with one array, .pt with
    one tensor, .pkl with a list, or text with one number a line. Of such a list, samples that are not trained on here,
    as those held out for validation, are left out.
    """
    if not file.is_file():
        raise UsageError(f"--from {file}: no such file")
    try:
        ours = file.suffix == ".npz" and not _is_one_array(file)
        found, left_out = (Selections.read(file), 0) if ours else _list(file, dataset, data)
    except ValueError as error:
        raise UsageError(f"--from {file}: {error}") from None
    made_for = found.config.get("dataset", dataset)
    if made_for != dataset or found.n != len(data.train):
        raise UsageError(
            f"--from {file}: made for {made_for} with {found.n} training samples; this is {dataset} with "
            f"{len(data.train)}"
        )
    known = found.config.get("data") or data.fingerprint
    if known != data.fingerprint:
        raise UsageError(
            f"--from {file}: made for other data of {dataset} ({known}) than those loaded here ({data.fingerprint})"
        )
    if not found.epochs or not len(found.epochs[0]):
        raise UsageError(f"--from {file}: it selects nothing")
    if not all(torch.equal(rows, found.epochs[0]) for rows in found.epochs):
        raise UsageError(f"--from {file}: it has {len(found.epochs)} selections, one for each epoch; one is needed")
    if fault := selection_fault(Selection(found.epochs[0], found.weights), found.n):
        raise UsageError(f"--from {file}: {fault.removeprefix('returned ')}")
    asked = found.config.get("keep", 1.0)
    check_keep(asked, f"--from {file}: made for keep = {store.brief(repr(asked))}")
    config = found.config | {"data": data.fingerprint}
    found = replace(found, epochs=found.epochs[:1], config=config, positions=data.positions)
    stem = re.sub(r"\W+", "_", str(found.config.get("method", file.stem))).strip("_")[:STEM]
    name = f"{stem}-{found.digest[:8]}"
    found.write(store.home() / "subsets" / f"{name}.npz")
    return catalog.label("subset", {"id": name}), left_out


def _lines(content: bytes) -> NDArray[np.int64]:
    with warnings.catch_warnings(action="ignore"):  # that there are none is told below
        return np.loadtxt(content.decode().splitlines(), np.int64, ndmin=1)


def _tensor(content: bytes, most: int) -> NDArray[Any]:
    """The one tensor of `most` values at most that torch.save wrote; nothing else is read, and no code is run."""
    if not zipfile.is_zipfile(BytesIO(content)):
        raise ValueError("not a file of torch.save, or one of a very old version")
    with zipfile.ZipFile(BytesIO(content)) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("it is packed in a way that torch.save does not use")
    try:
        found = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # what torch's unpickler and zip reader have raised
        raise ValueError(f"torch cannot load it without running code: {type(error).__name__}") from None
    if not isinstance(found, Tensor) or found.layout != torch.strided or found.numel() > most:
        raise ValueError(f"no tensor of at most {most:,} values")
    return np.asarray(found.detach().numpy())


def _is_one_array(file: Path) -> bool:
    """Whether an .npz file has a single array, as no file of ours has."""
    try:
        with zipfile.ZipFile(file) as archive:
            return len(archive.infolist()) == 1
    except npz.BAD:
        return False


def _array(content: bytes, most: int) -> NDArray[Any]:
    """The one array of whole numbers of an .npz file."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        [member] = archive.infolist()
    name = member.filename.removesuffix(".npy")
    return npz.read(content, {name: (1, "iu")}, 8 * most + 2**16)[name]


PICKLED = {"PROTO", "FRAME", "EMPTY_LIST", "MEMOIZE", "BINPUT", "LONG_BINPUT", "MARK", "APPEND", "APPENDS", "STOP"}
NUMBERS = {"BININT", "BININT1", "BININT2"}


def _pickled(content: bytes) -> NDArray[np.int64]:
    """The numbers of one list that was pickled; its opcodes are read, and nothing is unpickled."""
    found = [(opcode.name, value) for opcode, value, _ in pickletools.genops(content)]
    names = Counter(name for name, _ in found)
    if names["EMPTY_LIST"] != 1 or names.keys() - PICKLED - NUMBERS:
        raise ValueError("it pickles something else than one list of whole numbers")
    return np.array([value for name, value in found if name in NUMBERS], np.int64)


def _list(file: Path, dataset: str, data: Data) -> tuple[Selections, int]:
    """Read a plain list of positions among the dataset's own training samples, and count those not trained on."""
    total = data.total
    readers: dict[str, Callable[[bytes], NDArray[Any]]]
    readers = {".npy": store.array, ".pt": partial(_tensor, most=total), ".pth": partial(_tensor, most=total)}
    readers |= {".npz": partial(_array, most=total), ".pkl": _pickled, ".pickle": _pickled}
    reader = readers.get(file.suffix, _lines)
    try:
        content = store.bounded_file(file, LINE * total + 2**16)
        listed = reader(content)
    except npz.BAD as error:
        form = "one position a line," if reader is _lines else "an array of"
        raise ValueError(f"{store.brief(error)}; it should hold {form} whole numbers") from None
    if listed.ndim != 1 or not np.issubdtype(listed.dtype, np.integer):
        raise ValueError(f"{listed.dtype} of shape {listed.shape}; a list of whole numbers is needed")
    known = published_lists.of_sha256(hashlib.sha256(content).hexdigest())
    if known and catalog.parse(dataset)[0] != known.dataset:
        raise ValueError(f"it is {known.name}, a list of samples of {known.dataset}; this is {dataset}")
    if not len(listed) or listed.min() < 0 or listed.max() >= total:
        raise ValueError(f"positions are in 0..{total - 1}, the training samples of {dataset}")
    if len(np.unique(listed)) < len(listed):
        raise ValueError(f"{len(listed) - len(np.unique(listed))} positions are repeated")
    where = torch.full((total,), -1)
    own, first = np.unique(data.positions.numpy(), return_index=True)  # an original comes before its copies
    where[torch.from_numpy(own)] = torch.from_numpy(first)
    rows: Tensor = where[torch.from_numpy(listed.astype(np.int64))]
    config = {"dataset": dataset} | ({"method": known.name} if known else {})
    found = Selections([rows[rows >= 0].sort().values], len(data.train), config, data.positions)
    return found, int((rows < 0).count_nonzero())
