"""OrderDP for torchvision's detection models, whose losses are means over a batch: the images go through one by one."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from dpbench import PruningSampler

EPOCHS = 2


class Squares(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images with one bright square each."""

    def __init__(self, n: int) -> None:
        rng = torch.Generator().manual_seed(0)
        self.corners = torch.randint(0, 40, (n, 2), generator=rng)

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = self.corners[index].tolist()
        image = torch.zeros(3, 64, 64)
        image[:, y : y + 20, x : x + 20] = 1
        return image, {"boxes": torch.tensor([[x, y, x + 20.0, y + 20.0]]), "labels": torch.tensor([1])}


def train(method: str = "orderdp") -> list[float]:
    """Return the mean loss of each epoch."""
    torch.manual_seed(0)
    data = Squares(12)
    model = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=2, norm_layer=torch.nn.Identity
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    sampler = PruningSampler(method, n=len(data), epochs=EPOCHS, batch_size=3, keep=0.5)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=list)
    means = []
    for _ in range(EPOCHS):
        total = 0.0
        for step, batch in enumerate(loader):
            losses = torch.stack([sum(model([image], [target]).values()) for image, target in batch])
            loss = sampler.reduce(losses, sampler.batch(step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(losses.detach().sum())
        means.append(total / (len(data) * 0.5))
    return means
