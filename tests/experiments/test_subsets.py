"""Subsets as files: what a method chooses is what its run trains on, and a file trains like the method it came from."""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpbench import catalog, published_lists, store
from dpbench.errors import UsageError
from dpbench.experiments import subsets
from dpbench.selections import Selections
from dpbench.spec import RunSpec
from dpbench.training import loading

Spec = Callable[..., RunSpec]
CPU = torch.device("cpu")
N, HELD_OUT = 90, 10


@pytest.fixture
def take(spec: Spec, home: Path) -> Callable[[Path], tuple[str, int]]:
    """Give `take(file)`: the method that trains on it, and how many samples were left out."""
    dataset = spec().dataset
    return lambda file: subsets.take_in(file, dataset, loading.load_data(dataset, None))


def listed(tmp_path: Path, values: Any) -> Path:
    path = tmp_path / "mine.npy"
    np.save(path, values)
    return path


@pytest.mark.parametrize("method", ["el2n[at_epoch=2]", "craig[proxy_epochs=2]", "uniform", "score[by=aum]"])
def test_the_subset_is_the_one_that_the_run_trains_on(spec: Spec, run: Any, method: str) -> None:
    wanted = spec(method, seed=3)
    found = subsets.choose(wanted, CPU)
    trained = Selections.read(store.run_folder(run(wanted)["hash"]) / "selections.npz")
    assert torch.equal(found.epochs[0], trained.epochs[0])
    assert found.config == trained.config
    assert found.positions is not None
    assert torch.equal(found.positions, trained.positions)
    assert (found.weights is None) == (trained.weights is None) == (not method.startswith("craig"))
    if found.weights is not None:
        assert torch.equal(found.weights, trained.weights)
        assert found.weights.std() > 0
    assert (found.scores is None) == (trained.scores is None) == (not method.startswith("el2n"))
    if found.scores is not None:
        assert torch.equal(found.scores, trained.scores)


def test_scores_rank_what_was_chosen_first(spec: Spec, home: Path) -> None:
    found = subsets.choose(spec("el2n[at_epoch=2]", keep=0.3), CPU)
    assert found.scores is not None
    assert len(found.scores) == N
    chosen = torch.zeros(N, dtype=torch.bool).index_fill_(0, found.epochs[0], True)
    assert chosen.sum() == 27
    assert found.scores[chosen].min() > found.scores[~chosen].max()


@pytest.mark.parametrize("method", ["el2n[at_epoch=2]", "craig[proxy_epochs=2]"])
def test_a_file_trains_like_the_method_that_made_it(
    spec: Spec, run: Any, take: Any, tmp_path: Path, method: str
) -> None:
    path = tmp_path / "s.npz"
    subsets.choose(spec(method), CPU).write(path)
    name, left_out = take(path)
    assert left_out == 0
    path.unlink()  # it was copied
    assert catalog.load_method(name).requires().fixed_keep == 0.5
    ours, theirs = run(spec(method))["metrics"], run(spec(name))["metrics"]
    for metric in ("accuracy", "loss_test", "prune_ratio", "samples_backward"):
        assert ours[metric] == theirs[metric]
    assert theirs["samples_proxy"] == 0


def test_the_selections_of_a_static_run_are_a_subset_too(spec: Spec, run: Any, take: Any, tmp_path: Path) -> None:
    wanted = spec("craig[proxy_epochs=2]")
    path = tmp_path / "s.npz"
    subsets.choose(wanted, CPU).write(path)
    assert take(path) == take(store.run_folder(run(wanted)["hash"]) / "selections.npz")


def test_positions_are_those_of_the_dataset_itself(spec: Spec, home: Path) -> None:
    found = subsets.choose(spec("uniform"), CPU)
    data = loading.load_data(spec().dataset, None)
    everything, _ = catalog.load_dataset(spec().dataset).read(None)
    assert found.positions is not None
    own = everything.at(found.positions[found.epochs[0]])
    assert torch.equal(own.images, data.train.at(found.epochs[0]).images)
    assert len(everything) == N + HELD_OUT


@pytest.mark.parametrize("text", [False, True])
def test_a_list_counts_the_dataset_s_own_samples(spec: Spec, run: Any, take: Any, tmp_path: Path, text: bool) -> None:
    wanted = np.arange(0, N + HELD_OUT, 4)
    if text:
        path = tmp_path / "mine.txt"
        path.write_text("\n".join(map(str, wanted[::-1])))
    else:
        path = listed(tmp_path, wanted)
    name, left_out = take(path)
    positions = loading.load_data(spec().dataset, None).positions.tolist()
    kept = sorted(set(wanted.tolist()) & set(positions))
    assert left_out == len(wanted) - len(kept)
    assert left_out > 0
    assert catalog.load_method(name).requires().fixed_keep == len(kept) / N
    result = run(spec(name, keep=len(kept) / N))
    trained = Selections.read(store.run_folder(result["hash"]) / "selections.npz")
    assert [positions[row] for row in trained.epochs[0].tolist()] == kept


def test_a_file_is_named_by_its_content(take: Any, tmp_path: Path) -> None:
    first, same, other = (take(listed(tmp_path, np.array(values)))[0] for values in ([1, 2, 3], [3, 2, 1], [1, 2, 4]))
    assert first == same
    assert first != other


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2, 2, 2], "2 positions are repeated"),
        ([1, 100], r"positions are in 0..99, the training samples of synthetic"),
        ([-1, 3], r"positions are in 0..99"),
        ([], r"positions are in 0..99|whole numbers"),
        ([0.5, 1.5], "a list of whole numbers is needed"),
        ([[1, 2]], "a list of whole numbers is needed"),
    ],
)
def test_a_list_that_is_none_is_refused(take: Any, tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        take(listed(tmp_path, np.array(values)))


def test_a_file_of_anything_else_says_what_is_right(take: Any, tmp_path: Path) -> None:
    for name, content, right in (
        ("wrong.txt", "these are\nno numbers\n", "it should hold one position a line, whole numbers"),
        ("wrong.txt", "1.5\n2\n", "it should hold one position a line, whole numbers"),
        ("wrong.npy", "no array", "it should hold an array of whole numbers"),
        ("wrong.npy", "", "it should hold an array of whole numbers"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(UsageError, match=f"--from .*{name}: .*; {right}$"):
            take(tmp_path / name)


def test_a_large_list_is_not_read(take: Any, tmp_path: Path) -> None:
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (4000000000,), }\n"
    (tmp_path / "long.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(80))
    with pytest.raises(UsageError, match=r"its header promises int64 of shape \(4000000000,\), and it has 80 bytes"):
        take(tmp_path / "long.npy")
    (tmp_path / "long.txt").write_bytes(b"1\n" * 100_000)
    with pytest.raises(UsageError, match=r"more than 68,736 bytes"):
        take(tmp_path / "long.txt")
    for empty in ("", "# nothing\n"):
        (tmp_path / "empty.txt").write_text(empty)
        with pytest.raises(UsageError, match=r"positions are in 0\.\.99"):
            take(tmp_path / "empty.txt")


@pytest.mark.parametrize(
    ("rows", "weights", "config", "message"),
    [
        ([1, 1, 2], None, {}, "indices with 1 repeated; each sample is named once"),
        ([1, 2], [1.0, -1.0], {}, "a weight that is negative or not finite"),
        ([1, 2], [1.0, float("nan")], {}, "a weight that is negative or not finite"),
        ([1, 2], None, {"keep": "half"}, r"made for keep = 'half' is outside \(0, 1\]"),
        ([1, 2], None, {"keep": -1}, r"made for keep = -1 is outside \(0, 1\]"),
    ],
)
def test_a_subset_that_cannot_be_trained_on_is_refused_at_once(
    take: Any, tmp_path: Path, rows: list[int], weights: list[float] | None, config: dict[str, Any], message: str
) -> None:
    given = None if weights is None else torch.tensor(weights)
    Selections([torch.tensor(rows)], N, config, weights=given).write(tmp_path / "s.npz")
    with pytest.raises(UsageError, match=message):
        take(tmp_path / "s.npz")


def test_a_subset_s_name_fits_a_file_system(take: Any, tmp_path: Path) -> None:
    Selections([torch.arange(3)], N, {"method": "é" * 3000}).write(tmp_path / "s.npz")
    method, _ = take(tmp_path / "s.npz")
    assert catalog.load_method(method).requires().fixed_keep == 3 / N


def test_a_subset_of_something_else_is_refused(spec: Spec, home: Path, take: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    Selections([torch.arange(3)], 5, {"dataset": "digits"}).write(path)
    with pytest.raises(UsageError, match=r"made for digits with 5 training samples; this is synthetic.* with 90"):
        take(path)
    Selections([torch.arange(3), torch.arange(4)], N, {}).write(path)
    with pytest.raises(UsageError, match="it has 2 selections, one for each epoch"):
        take(path)
    Selections([torch.arange(0)], N, {}).write(path)
    with pytest.raises(UsageError, match="it selects nothing"):
        take(path)
    path.write_text("no zip")
    with pytest.raises(UsageError, match=r"--from .*s\.npz"):
        take(path)
    with pytest.raises(UsageError, match="no such file"):
        take(tmp_path / "nowhere.npz")


def test_a_method_that_chooses_anew_has_no_subset(spec: Spec, home: Path) -> None:
    for method in ("orderdp", "selective_backprop"):
        with pytest.raises(UsageError, match=f"{method} chooses again during the training"):
            subsets.choose(spec(method), CPU)


def test_a_subset_whose_file_is_gone_fails_its_run(spec: Spec, run: Any) -> None:
    result = run(spec("subset[id=gone-1234]"))
    assert result["status"] == "FAILED"
    assert "no file gone-1234.npz under $DPBENCH_HOME/subsets" in result["reason"]


def test_a_tensor_of_torch_is_a_list(tmp_path: Path, take: Any) -> None:
    torch.save(torch.tensor([3, 1, 2]), tmp_path / "mine.pt")
    np.save(tmp_path / "mine.npy", [3, 1, 2])
    method, _ = take(tmp_path / "mine.pt")
    assert method == take(tmp_path / "mine.npy")[0]


class Runs:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("was-run"),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (Runs(), "without running code"),
        ([1, 2], "no tensor"),
        (torch.zeros(1, dtype=torch.int64).expand(10**12), "no tensor of at most"),
        (torch.rand(3), "a list of whole numbers is needed"),
        (torch.zeros(2, 2, dtype=torch.int64), "a list of whole numbers is needed"),
    ],
)
def test_what_is_no_tensor_of_positions_is_refused(
    tmp_path: Path, take: Any, monkeypatch: pytest.MonkeyPatch, content: Any, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "mine.pt")
    with pytest.raises(UsageError, match=reason):
        take(tmp_path / "mine.pt")
    assert not (tmp_path / "was-run").exists()


def test_a_tensor_packed_small_is_refused(tmp_path: Path, take: Any) -> None:
    torch.save(torch.arange(3), tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "mine.pt", "w", 8) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(UsageError, match="packed in a way"):
        take(tmp_path / "mine.pt")


def test_a_pickled_list_and_one_array_of_another_project_are_read(tmp_path: Path, take: Any) -> None:
    np.save(tmp_path / "mine.npy", [3, 1, 2])
    method, _ = take(tmp_path / "mine.npy")
    np.savez_compressed(tmp_path / "mine.npz", selected=np.array([3, 1, 2], np.uint8))
    assert take(tmp_path / "mine.npz")[0] == method
    for protocol in (1, 2, 5):
        (tmp_path / "mine.pkl").write_bytes(pickle.dumps([3, 1, 2], protocol))
        assert take(tmp_path / "mine.pkl")[0] == method


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Runs()),
        pickle.dumps([1, Runs()]),
        pickle.dumps({"a": [1, 2]}),
        pickle.dumps([[1], [2]]),
        pickle.dumps([1.5]),
        pickle.dumps([1, True]),
        pickle.dumps(np.array([1, 2])),
        pickle.dumps([1, 2])[:-1],
        b"",
    ],
)
def test_a_pickle_of_anything_else_is_refused_and_not_loaded(
    tmp_path: Path, take: Any, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pkl").write_bytes(content)
    with pytest.raises(UsageError, match=r"--from .*mine\.pkl: "):
        take(tmp_path / "mine.pkl")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    "arrays", [{"a": np.arange(3), "b": np.arange(3)}, {"a": np.zeros(3)}, {"a": np.eye(2, dtype=int)}]
)
def test_an_archive_of_anything_else_is_refused(tmp_path: Path, take: Any, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(UsageError, match=r"--from .*mine\.npz: "):
        take(tmp_path / "mine.npz")


def test_a_published_list_is_known_by_its_content(
    tmp_path: Path, take: Any, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = listed(tmp_path, np.arange(3))
    sha256, dataset = hashlib.sha256(path.read_bytes()).hexdigest(), catalog.parse(spec().dataset)[0]
    one = published_lists.List("theirs", dataset, 100, 3, sha256, "", "")
    monkeypatch.setattr(published_lists, "lists", lambda: {"theirs": one})
    assert take(path)[0].startswith("subset[id=theirs-")
    monkeypatch.setattr(published_lists, "lists", lambda: {"theirs": replace(one, dataset="digits")})
    with pytest.raises(UsageError, match="it is theirs, a list of samples of digits; this is synthetic"):
        take(path)


def test_published_lists_are_whole() -> None:
    found = published_lists.lists().values()
    assert len({one.sha256 for one in found}) == len(found) == 8
    for one in found:
        assert one.dataset in catalog.names("datasets")
        assert 0 < one.size < one.n
        assert re.fullmatch("[0-9a-f]{64}", one.sha256)
        assert re.search(r"/blob/[0-9a-f]{40}/", one.source), "at a commit, so that it stays what it is"
