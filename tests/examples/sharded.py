"""Each process holds its own samples, and all select together: torchrun --nproc-per-node 2 sharded.py."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.nn.parallel import DistributedDataParallel

from dpbench import ShardedSelection

EPOCHS = 8


def train(method: str = "infobatch") -> tuple[float, int]:
    """Return the accuracy on this process's samples and the number of samples that it has sent backward."""
    torch.distributed.init_process_group("gloo")  # on GPUs "cpu:gloo,cuda:nccl": the selection adds up on the CPU
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    torch.manual_seed(0)
    everything, targets = load_digits(return_X_y=True)
    images = torch.tensor(everything[rank::ranks] / 16, dtype=torch.float32)  # on a cluster: the files of this process
    labels = torch.tensor(targets[rank::ranks])
    network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    selection = ShardedSelection(method, n=len(images), epochs=EPOCHS, keep=0.5, labels=labels)
    backward = 0
    for epoch in range(EPOCHS):
        selection.select(epoch)
        for rows, weights in selection.batches(32):
            losses = F.cross_entropy(model(images[rows]), labels[rows], reduction="none")
            optimizer.zero_grad()
            (losses * weights).sum().backward()
            optimizer.step()
            selection.observe(rows, loss=losses)
            backward += len(rows)
    with torch.no_grad():
        accuracy = (network(images).argmax(1) == labels).float().mean()
    return float(accuracy), backward


if __name__ == "__main__":
    accuracy, backward = train()
    print(f"rank {torch.distributed.get_rank()}: accuracy {accuracy:.3f} after {backward} samples")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
