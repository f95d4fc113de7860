"""InfoBatch under Accelerate: accelerate launch --cpu --num_processes 2 accelerated.py, or torchrun."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from dpbench import PruningSampler

EPOCHS, ACCUMULATE = 8, 2


def train(method: str = "infobatch") -> tuple[float, int]:
    """Return the accuracy on the training data and the number of samples that this process has sent backward."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATE)  # on GPUs without cpu=True
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    model, optimizer = accelerator.prepare(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9))

    # after the Accelerator, which joins the processes; its loader is not prepared: the sampler has shared it out
    sampler = PruningSampler(method, n=len(data), epochs=EPOCHS, batch_size=16, keep=0.5)
    loader = DataLoader(data, batch_sampler=sampler)
    backward = 0
    for _ in range(EPOCHS):
        for step, (x, y) in enumerate(loader):
            with accelerator.accumulate(model):
                losses = F.cross_entropy(model(x.to(accelerator.device)), y.to(accelerator.device), reduction="none")
                accelerator.backward(sampler.reduce(losses, sampler.batch(step)))
                optimizer.step()
                optimizer.zero_grad()
            backward += len(x)
    with torch.no_grad():
        outputs = accelerator.unwrap_model(model)(data.tensors[0].to(accelerator.device)).cpu()
    return float((outputs.argmax(1) == data.tensors[1]).float().mean()), backward


if __name__ == "__main__":
    accuracy, backward = train()
    print(f"accuracy {accuracy:.3f} after {backward} samples on this process")
