"""Embeddings from elsewhere and another model for the proxy: what is trained, what is shown, what is another run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpbench import catalog, store
from dpbench.errors import UsageError
from dpbench.spec import RunSpec, canonical, source_digests
from dpbench.training import loading, proxy, runner
from dpbench.training.ledger import Ledger

Spec = Callable[..., RunSpec]
CPU = torch.device("cpu")
NARROW = "mlp[width=4,depth=1]"


@pytest.fixture
def vectors(tmp_path: Path) -> np.ndarray:
    """One vector for each of the dataset's own 100 training samples, in `tmp_path`/h.npy."""
    made = np.random.default_rng(0).normal(size=(100, 5))
    np.save(tmp_path / "h.npy", made)
    return made


def test_a_file_takes_the_place_of_the_proxy(run: Any, spec: Spec, tmp_path: Path, vectors: np.ndarray) -> None:
    """k-center needs nothing else, so no proxy is trained; its picks are those of the file's vectors."""
    wanted = spec(f"k_center[embedding={tmp_path}/h.npy]", keep=0.3)
    assert proxy.requests(wanted) == []
    result = run(wanted)
    assert result["status"] != "FAILED", result["reason"]
    assert result["metrics"]["samples_proxy"] == 0
    data = loading.load_data(wanted.dataset, None)
    driver = runner.prepare(wanted, data, CPU, Ledger())
    h = vectors[data.positions]
    chosen = driver.start(0, 1.0).indices.numpy()
    # with these 27 as centres, no other is farther from them than any two of them are from each other
    apart = np.linalg.norm(h[:, None] - h, axis=2)
    rest = np.setdiff1d(np.arange(len(h)), chosen)
    between = apart[np.ix_(chosen, chosen)] + np.diag(np.full(len(chosen), np.inf))
    assert apart[np.ix_(rest, chosen)].min(1).max() <= between.min() + 1e-5


def test_other_signals_are_still_the_proxys(home: Path, spec: Spec, tmp_path: Path, vectors: np.ndarray) -> None:
    wanted = spec(f"d2[proxy_epochs=1,embedding={tmp_path}/h.npy]")
    [request] = proxy.requests(wanted)
    assert request.needs == {"error_norm"}
    data = loading.load_data(wanted.dataset, None)
    method = runner.prepare(wanted, data, CPU, Ledger()).method
    shown = method.gathered
    assert shown["embedding"].numpy() == pytest.approx(vectors[data.positions], abs=1e-6)
    assert shown["error_norm"].shape == (90,)


def test_there_is_a_row_for_each_sample_that_the_dataset_has(home: Path, spec: Spec, tmp_path: Path) -> None:
    """Those too that are left out or set apart, and none for a copy."""
    np.save(tmp_path / "h.npy", np.random.default_rng(0).normal(size=(100, 5)))
    name, params = catalog.parse(spec("full").dataset)
    for change in ({"imbalance": 0.1}, {"duplicates": 0.5}, {"trusted": 0.2}):
        wanted = spec(f"k_center[embedding={tmp_path}/h.npy]", dataset=catalog.label(name, params | change), keep=0.3)
        data = loading.load_data(wanted.dataset, None)
        assert len(data.train) + len(data.validation) != 100, change
        runner.prepare(wanted, data, CPU, Ledger())


def test_its_content_is_in_the_identity(spec: Spec, tmp_path: Path, vectors: np.ndarray) -> None:
    wanted = spec(f"k_center[embedding={tmp_path}/h.npy]")
    before = wanted.hash
    assert spec("k_center").hash != before
    np.save(tmp_path / "h.npy", vectors + 1)
    source_digests.cache_clear()
    assert wanted.hash != before


def test_faults_of_the_file(home: Path, spec: Spec, tmp_path: Path, vectors: np.ndarray) -> None:
    text = f"k_center[embedding={tmp_path}/h.npy]"
    wanted = spec(text)
    data = loading.load_data(wanted.dataset, None)
    hole = vectors.copy()
    hole[7, 2] = np.nan
    for content, message in (
        (vectors[:50], "50 rows; row i is sample i of the dataset's own training set, of 100"),
        (hole, "row 7 has values that are no finite numbers"),
        (vectors[0], "float64 of shape .5,.; numbers of shape"),
        (np.array(["a"] * 100)[:, None], "numbers of shape"),
        (np.array([{}] * 100, dtype=object), "allow_pickle"),
    ):
        np.save(tmp_path / "h.npy", content, allow_pickle=True)
        with pytest.raises(UsageError, match=message):
            runner.prepare(wanted, data, CPU, Ledger())
    (tmp_path / "h.npy").unlink()
    source_digests.cache_clear()
    with pytest.raises(UsageError, match=r"no file .*h\.npy"):
        _ = wanted.hash


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("el2n[embedding=a.npy]", "embedding is not for this method, it reads no embedding of a proxy"),
        ("divbs[embedding=a.npy]", "it reads no embedding of a proxy"),
        ("orderdp[proxy_model=mlp]", "proxy_model is not for this method, it has no proxy"),
        ("el2n[proxy_model=mpl]", "unknown model 'mpl'; did you mean mlp"),
    ],
)
def test_who_cannot_use_them_says_so(method: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        catalog.load_method(method)


def test_a_proxy_of_another_model(run: Any, spec: Spec) -> None:
    """It is the record that a target of that model has, and another run than with its own."""
    wanted = spec(f"el2n[at_epoch=1,proxy_model={NARROW}]")
    assert wanted.method == canonical(wanted.method) == f"el2n[at_epoch=1,proxy_model='{NARROW}']".replace("'", "")
    [request] = proxy.requests(wanted)
    assert request.model == NARROW
    assert request.hash == proxy.requests(spec("el2n[at_epoch=1]", model=NARROW))[0].hash
    assert wanted.hash != spec("el2n[at_epoch=1]").hash
    result = run(wanted)
    assert result["status"] != "FAILED", result["reason"]
    assert result["metrics"]["samples_proxy"] == 90
    assert store.read_json(request.folder / "training.json", dict)["model"] == NARROW  # type: ignore[index]


def test_timm_embeds_pictures_with_local_weights(home: Path, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", pretrained=False)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    text = f"k_center[embedding=timm:test_resnet@{tmp_path}/w.pth]"
    method, data = catalog.load_method(text), loading.load_data("synthetic[n=40,n_test=20,d=16,classes=4]", None)
    from dpbench.training import embeddings

    found = embeddings.given(method, data, CPU)
    assert found.shape == (36, network.num_features)
    assert found.std(0).max() > 0
    assert torch.equal(found, embeddings.given(method, data, CPU)), "read again"
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="the file has no"):
        embeddings.given(method, data, CPU)
