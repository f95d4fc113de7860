"""Long tails, wrong labels and copies: exact counts, the transitions they should make, and clean test samples."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dpbench import catalog
from dpbench.corruption import wrong_labels
from dpbench.data import Data, Dataset
from dpbench.errors import UsageError
from dpbench.images import Images
from dpbench.tables import Table
from dpbench.tokens import Texts
from dpbench.training import loading

N, CLASSES = 5000, 5  # 4,500 to train on


class Numbered(Dataset):
    """Images of 1 x 3 x 4 pixels, the first two of which tell the sample's number."""

    def read(self, root: Path | None) -> tuple[Images, Images]:
        numbers = torch.arange(N)
        pixels = torch.randint(256, (N, 12), generator=torch.Generator().manual_seed(0))
        pixels[:, 0], pixels[:, 1] = numbers // 256, numbers % 256
        whole = Images(pixels.to(torch.uint8).view(N, 1, 3, 4), numbers % CLASSES)
        return whole, whole.at(torch.arange(500))


def numbers(split: Any) -> Tensor:
    return split.images.view(-1, 12)[:, :2].long() @ torch.tensor([256, 1])


def made(**params: Any) -> Data:
    return Numbered(**params).load()


CLEAN = made()
EVERY: dict[str, Any] = {
    "label_noise": 0.2, "noise": "asymmetric", "imbalance": 0.1, "duplicates": 0.25, "trusted": 0.1
}  # fmt: skip


def transitions(data: Data) -> Tensor:
    """The share of each class (row) that became each class (column)."""
    true = numbers(data.train) % CLASSES
    found = torch.zeros(CLASSES, CLASSES).index_put_((true, data.train.labels), torch.tensor(1.0), accumulate=True)
    return found / found.sum(1, keepdim=True)


# wrong labels


def test_symmetric_noise_goes_to_all_other_classes_alike() -> None:
    found = transitions(made(label_noise=0.4))
    expected = torch.full((CLASSES, CLASSES), 0.1).fill_diagonal_(0.6)
    assert (found - expected).abs().max() < 4 * (0.6 * 0.4 / 900) ** 0.5


def test_asymmetric_noise_goes_to_the_next_class_and_is_exact() -> None:
    data = made(label_noise=0.4, noise="asymmetric")
    assert data.noisy is not None
    assert int(data.noisy.count_nonzero()) == round(0.4 * 4500)
    assert torch.equal(data.noisy, made(label_noise=0.4).noisy), "the same samples as symmetric noise"
    found = transitions(data)
    ahead = torch.eye(CLASSES).roll(1, 1)
    assert torch.equal(found > 0, (torch.eye(CLASSES) + ahead) > 0)
    assert (found - 0.6 * torch.eye(CLASSES) - 0.4 * ahead).abs().max() < 4 * (0.6 * 0.4 / 900) ** 0.5


def test_instance_noise_has_its_rate_and_goes_by_the_sample() -> None:
    data = made(label_noise=0.4, noise="instance")
    assert data.noisy is not None
    assert abs(float(data.noisy.float().mean()) - 0.4) < 4 * (0.6 * 0.4 / 4500) ** 0.5
    assert torch.equal(data.noisy, data.train.labels != numbers(data.train) % CLASSES)
    assert len(data.train.labels[data.noisy].unique()) == CLASSES
    image = torch.randint(256, (2, 1, 3, 4), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    rows = torch.arange(4000) % 2
    twins = wrong_labels(Images(image[rows], torch.zeros(4000).long()), CLASSES, "instance", 0.5, torch.Generator())
    chances = [torch.bincount(twins[rows == i], minlength=CLASSES)[1:] / 1000 for i in (0, 1)]
    assert (chances[0] - chances[1]).abs().max() > 0.1, "which class a sample becomes depends on its pixels"


def test_instance_noise_is_clipped_to_what_a_share_can_be() -> None:
    data = made(label_noise=0.01, noise="instance")
    assert data.noisy is not None
    mean = 0.01 + 0.1 * 0.3970 / 0.5398  # of the truncated normal: phi(0.1) / (1 - Phi(-0.1)) standard deviations up
    assert abs(float(data.noisy.float().mean()) - mean) < 4 * (mean * (1 - mean) / 4500) ** 0.5


@pytest.mark.parametrize(
    "source",
    [
        Table(torch.randn(200, 3), torch.arange(200)[:, None] % 4, (4,), torch.arange(200) % 2),
        Table(torch.full((200, 1), float("nan")), torch.empty(200, 0).long(), (), torch.arange(200) % 2),
        Texts(torch.arange(1000).view(200, 5), 1000, torch.arange(200) % 2),
    ],
)
def test_instance_noise_takes_every_kind(source: Any) -> None:
    found = wrong_labels(source, 2, "instance", 0.5, torch.Generator().manual_seed(0))
    assert 60 < int((found != source.labels).count_nonzero()) < 140
    assert source.features().shape[0] == 200


def test_noise_without_its_share_and_sources_without_features_are_refused() -> None:
    with pytest.raises(UsageError, match="noise=instance is the way of label_noise, which is 0"):
        catalog.load_dataset("digits[noise=instance]")
    with pytest.raises(UsageError, match="noise = 'pair' is not one of symmetric, asymmetric, instance"):
        catalog.load_dataset("digits[label_noise=0.1,noise=pair]")

    class Bare(Images):
        def features(self) -> Any:
            return None

    with pytest.raises(UsageError, match="noise=instance needs features of the samples, and Bare gives none"):
        wrong_labels(Bare(CLEAN.train.images, CLEAN.train.labels), CLASSES, "instance", 0.5, torch.Generator())


# a long tail


def test_a_long_tail_is_exact_and_keeps_the_order() -> None:
    counts = torch.bincount(CLEAN.train.labels).tolist()
    for ratio in (0.5, 0.01):
        data = made(imbalance=ratio)
        found = torch.bincount(data.train.labels).tolist()
        largest = min(count / ratio ** (c / 4) for c, count in enumerate(counts))
        assert found == [round(largest * ratio ** (c / 4)) for c in range(CLASSES)]
        assert found[-1] / found[0] == pytest.approx(ratio, rel=0.06)
        assert data.positions.tolist() == sorted(set(data.positions.tolist()))
        assert torch.equal(numbers(data.train), data.positions)
    assert torch.equal(made(imbalance=1.0).train.labels, CLEAN.train.labels)


def test_what_a_small_ratio_keeps_a_larger_one_does_too() -> None:
    fewer, more = made(imbalance=0.01).positions.tolist(), made(imbalance=0.1).positions.tolist()
    assert set(fewer) < set(more)


# copies


def test_copies_are_exact_in_number_and_in_content() -> None:
    data = made(duplicates=0.25)
    assert len(data.train) == 6000
    assert torch.equal(data.positions[:4500], CLEAN.positions), "the rows before the copies are as without them"
    assert set(data.positions[4500:].tolist()) <= set(CLEAN.positions.tolist())
    assert torch.equal(numbers(data.train), data.positions)
    row = {position: i for i, position in enumerate(data.positions[:4500].tolist())}
    originals = torch.tensor([row[position] for position in data.positions[4500:].tolist()])
    assert torch.equal(data.train.images[4500:], data.train.images[originals])
    assert torch.equal(data.train.labels[4500:], data.train.labels[originals])


def test_copies_share_the_wrong_labels_of_their_originals() -> None:
    data = made(duplicates=0.5, label_noise=0.3)
    assert data.noisy is not None
    assert torch.equal(data.noisy, data.train.labels != numbers(data.train) % CLASSES)
    assert torch.equal(data.noisy[:4500], made(label_noise=0.3).noisy)


# all of them


@pytest.mark.parametrize("noise", ["symmetric", "asymmetric", "instance"])
def test_all_at_once_is_the_same_every_time_and_only_in_the_training_samples(noise: str) -> None:
    asked = EVERY | {"noise": noise}
    data, again = made(**asked), made(**asked)
    assert data.fingerprint == again.fingerprint != CLEAN.fingerprint
    for name in ("validation", "test"):
        assert getattr(data, name).fingerprint == getattr(CLEAN, name).fingerprint
    assert data.trusted is not None
    assert len(data.trusted) == 450
    assert torch.equal(numbers(data.trusted) % CLASSES, data.trusted.labels), "trusted samples are clean"
    apart = [set(numbers(part).tolist()) for part in (data.train, data.validation, data.trusted)]
    assert len(set.union(*apart)) == sum(map(len, apart)), "no sample is in two parts"
    assert torch.equal(numbers(data.train), data.positions)
    assert data.total == N


@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"noise"}))
def test_each_of_them_makes_other_data(name: str) -> None:
    assert made(**{name: EVERY[name]}).fingerprint != CLEAN.fingerprint


# in a run

BASE = "synthetic[n=100,n_test=50,d=16,classes=4"


def test_a_run_tells_which_share_of_what_it_used_was_double(run: Any, spec: Any) -> None:
    full = run(spec(dataset=f"{BASE},duplicates=0.25]"))
    data = loading.load_data(f"{BASE},duplicates=0.25]", None)
    assert (len(data.train), len(data.positions.unique())) == (120, 90)
    assert full["diagnostics"]["duplicate_share"] == pytest.approx(0.25)
    once = run(spec("uniform_epoch", dataset=f"{BASE},duplicates=0.25]", keep=0.05, epochs=2))
    assert 0 <= once["diagnostics"]["duplicate_share"] < 0.25
    assert run(spec())["diagnostics"]["duplicate_share"] is None


def test_a_proxy_on_holdout_data_takes_the_trusted_samples(run: Any, spec: Any, monkeypatch: Any) -> None:
    taken: list[int] = []
    loader = Images.loader

    def noted(self: Images, *arguments: Any, **options: Any) -> Any:
        taken.append(len(self))
        return loader(self, *arguments, **options)

    monkeypatch.setattr(Images, "loader", noted)
    result = run(spec("rho_loss[proxy_epochs=1]", dataset=f"{BASE},trusted=0.2]"))
    assert result["status"] != "FAILED", result.get("reason")
    assert result["samples"]["train"] == 72
    assert taken[0] == 18, "the proxy trains on the fifth that is set apart"


def test_a_list_of_positions_names_the_originals(tmp_path: Path, home: Path) -> None:
    from dpbench.experiments import subsets
    from dpbench.selections import Selections

    dataset = f"{BASE},duplicates=0.5]"
    data = loading.load_data(dataset, None)
    listed = data.positions[:10].tolist()
    (tmp_path / "listed.txt").write_text("\n".join(map(str, listed)))
    method, left_out = subsets.take_in(tmp_path / "listed.txt", dataset, data)
    [file] = (home / "subsets").iterdir()
    assert Selections.read(file).epochs[0].tolist() == list(range(10))
    assert left_out == 0
    assert method.startswith("subset")
