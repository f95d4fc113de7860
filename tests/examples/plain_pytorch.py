"""InfoBatch in a plain PyTorch loop: the three added lines are marked."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from dpbench import PruningSampler

EPOCHS = 8


def train(method: str = "infobatch", workers: int = 0) -> tuple[float, int]:
    """Return the accuracy on the training data and the number of samples sent backward."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    sampler = PruningSampler(method, n=len(data), epochs=EPOCHS, batch_size=64, keep=0.5)  # 1
    loader = DataLoader(data, batch_sampler=sampler, num_workers=workers, persistent_workers=workers > 0)  # 2
    backward = 0
    for _ in range(EPOCHS):
        for step, (x, y) in enumerate(loader):
            losses = F.cross_entropy(model(x), y, reduction="none")
            loss = sampler.reduce(losses, sampler.batch(step))  # 3, in the place of losses.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            backward += len(x)
    with torch.no_grad():
        accuracy = (model(data.tensors[0]).argmax(1) == data.tensors[1]).float().mean()
    return float(accuracy), backward


if __name__ == "__main__":
    accuracy, backward = train()
    print(f"accuracy {accuracy:.3f} after {backward} samples instead of {EPOCHS * 1797}")
