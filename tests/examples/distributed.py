"""InfoBatch on several processes: torchrun --nproc-per-node 2 distributed.py."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from dpbench import PruningSampler

EPOCHS = 8


def train(method: str = "infobatch") -> tuple[float, int]:
    """Return the accuracy on the training data and the number of samples that this process has sent backward."""
    torch.distributed.init_process_group("gloo")  # on GPUs "nccl"
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    # 32 samples of each process a batch; it takes the number of this one and of all from torch.distributed
    sampler = PruningSampler(method, n=len(data), epochs=EPOCHS, batch_size=32, keep=0.5)
    loader = DataLoader(data, batch_sampler=sampler)  # without a DistributedSampler, which would share out once more
    backward = 0
    for _ in range(EPOCHS):
        for step, (x, y) in enumerate(loader):
            losses = F.cross_entropy(model(x), y, reduction="none")
            loss = sampler.reduce(losses, sampler.batch(step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            backward += len(x)
    with torch.no_grad():
        accuracy = (network(data.tensors[0]).argmax(1) == data.tensors[1]).float().mean()
    return float(accuracy), backward


if __name__ == "__main__":
    accuracy, backward = train()
    if torch.distributed.get_rank() == 0:
        print(f"accuracy {accuracy:.3f} after {backward} samples on each process")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
