"""Signals that differentiate the model: against autograd one sample at a time, and DeepFool written as a loop."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from dpbench.images import ImageLoader, Images
from dpbench.signals import MODEL_SIGNALS, differentiate
from dpbench.spec import Recipe
from dpbench.training.pace import Pace
from dpbench.training.train import Learner, Recorder, measure_all, train_epoch
from dpbench.training.workload import Classification


@pytest.fixture(scope="module")
def gold():
    return np.load(Path(__file__).parent / "data" / "static.npz")


@pytest.fixture(scope="module")
def network(gold):
    """The trained network of the reference outputs."""
    layers = {"c1": nn.Conv2d(1, 8, 3, padding=1), "c2": nn.Conv2d(8, 16, 3, padding=1)}
    layers |= {"f1": nn.Linear(64, 32), "f2": nn.Linear(32, 10)}
    for name, layer in layers.items():
        for part in ("weight", "bias"):
            getattr(layer, part).data = torch.from_numpy(gold[f"digits/w_{name}.{part}"])
    c1, c2, f1, f2 = layers.values()
    pool = nn.MaxPool2d(2)
    return nn.Sequential(c1, nn.ReLU(), pool, c2, nn.ReLU(), pool, nn.Flatten(), f1, nn.ReLU(), f2).eval()


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(load_digits().images / 16).float()[:, None]


def test_the_network_is_that_of_the_reference(gold, network, images):
    torch.testing.assert_close(network(images), torch.from_numpy(gold["digits/logits"]), atol=1e-4, rtol=1e-4)


def test_full_grad_norm(gold, network, images):
    labels = torch.from_numpy(gold["digits/labels"]).long()[:40]
    with torch.no_grad():
        got, forward, backward = differentiate(["full_grad_norm", "loss"], network, images[:40], labels)
    assert (forward, backward) == (40, 40)
    assert got.keys() == {"full_grad_norm"}
    for i in range(40):
        loss = nn.functional.cross_entropy(network(images[i : i + 1]), labels[i : i + 1])
        parts = torch.autograd.grad(loss, list(network.parameters()))
        expected = torch.cat([part.flatten() for part in parts]).norm()
        torch.testing.assert_close(got["full_grad_norm"][i], expected, rtol=1e-4, atol=1e-6)


def one_by_one(network, image):
    """DeepFool in the words of its paper, for one image: ||r||^2 after the class has changed or 50 steps."""
    x, first = image.clone(), int(network(image[None]).argmax())
    for _ in range(50):
        x.requires_grad_()
        logits = network(x[None])[0]
        if int(logits.argmax()) != first:
            break
        slopes = [torch.autograd.grad(logits[c], x, retain_graph=True)[0] for c in range(10)]
        steps = []
        for c in range(10):
            if c != first:
                w, f = slopes[c] - slopes[first], float((logits[c] - logits[first]).detach().abs())
                steps.append((f / float(w.norm()), f / float(w.norm()) ** 2 * w))
        x = (x + min(steps, key=lambda step: step[0])[1]).detach()
    return float((x.detach() - image).square().sum())


def test_deepfool(network, images):
    labels = torch.zeros(30, dtype=torch.int64)
    with torch.no_grad():
        values, forward, backward = differentiate(["deepfool"], network, images[:30], labels)
    expected = [one_by_one(network, image) for image in images[:30]]
    np.testing.assert_allclose(values["deepfool"], expected, rtol=0.02, atol=1e-5)
    assert forward >= 2 * 30, "a step and a look at what it did"
    assert backward == 10 * forward
    assert min(expected) > 0


def test_deepfool_agrees_with_deepcore(gold, network, images):
    """Nearly: at the last step, rounding decides whether the class has changed already."""
    with torch.no_grad():
        values, forward, _ = differentiate(["deepfool"], network, images, torch.zeros(1797, dtype=torch.int64))
    got = values["deepfool"]
    assert forward < 5 * 1797, "samples on the boundary are left, which else take all of the 50 steps: 8.1 on average"
    nearest = set(got.argsort()[:180].tolist())
    assert len(nearest & set(gold["deepcore/DeepFool/f0.1_bal0/indices"].tolist())) >= 176


def test_they_are_measured_in_passes_and_not_in_training_steps():
    recipe = Recipe(epochs=1, batch_size=8, lr=0.1)
    learner = Learner("mlp[width=8]", recipe, Classification(3, recipe), (1, 4, 4), 0, torch.device("cpu"))
    rng = torch.Generator().manual_seed(0)
    data = Images(torch.randint(256, (20, 1, 4, 4), generator=rng).byte(), torch.arange(20) % 3)
    loader = ImageLoader(data, data.images, learner.device)
    needs = frozenset({*MODEL_SIGNALS, "loss"})
    loader.start_epoch(rng)
    guide, pace = Recorder(needs), Pace(recipe, 1)
    pace.start(0)
    train_epoch(learner, loader, [torch.arange(8)], pace, guide)
    assert [values.keys() for _, values in guide.passed] == [{"loss"}]
    rows, values = measure_all(learner, loader, torch.arange(20), needs)
    assert values.keys() == needs
    assert all(len(value) == len(rows) and not value.requires_grad for value in values.values())
