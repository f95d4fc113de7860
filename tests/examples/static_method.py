"""EL2N and forgetting in a plain PyTorch loop: a proxy training tells them which samples to keep."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from dpbench import IndexedDataset, PruningSampler, record_proxy

EPOCHS = 5


def train(keep: float = 0.3) -> dict[str, float]:
    """Return the accuracy on all of the data of a training on each method's choice."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    data, accuracy = IndexedDataset(TensorDataset(x, y)), {}
    options = {"n": len(data), "epochs": EPOCHS, "batch_size": 32, "keep": keep, "labels": y}
    el2n, forgetting = PruningSampler(f"el2n[at_epoch={EPOCHS}]", **options), PruningSampler("forgetting", **options)

    proxy, optimizer = new_model()
    for epoch in range(EPOCHS):
        seen = torch.zeros(len(data), 10)
        for indices, (images, labels) in DataLoader(data, 32, shuffle=True):
            seen[indices] = (logits := proxy(images)).detach()
            step(optimizer, F.cross_entropy(logits, labels))
        forgetting.replay(logits=seen, epoch=epoch)  # which is defined on what the training steps saw
    el2n.replay(**record_proxy(proxy, DataLoader(data, 256), el2n.method.requires().signals))

    for sampler in (el2n, forgetting):
        model, optimizer = new_model()
        for _ in range(EPOCHS):
            for indices, (images, labels) in DataLoader(data, batch_sampler=sampler):
                step(optimizer, sampler.reduce(F.cross_entropy(model(images), labels, reduction="none"), indices))
        accuracy[type(sampler.method).__name__] = float((model(x).argmax(1) == y).float().mean())
    return accuracy


def new_model() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


if __name__ == "__main__":
    print(train())
