"""OrderDP in the Hugging Face Trainer: batches that tell their samples, and the loss computed per sample."""

from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from dpbench import IndexedDataset, PruningSampler

EPOCHS = 8


class PruningTrainer(Trainer):
    """A Trainer whose epochs a pruning method chooses."""

    sampler: PruningSampler

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The method's batches."""
        return DataLoader(self.train_dataset, batch_sampler=self.sampler, collate_fn=self.data_collator)

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """The weighted mean loss, observed by the method."""
        losses = F.cross_entropy(model(inputs["x"]), inputs["labels"], reduction="none")
        return self.sampler.reduce(losses, inputs["index"])


def train(folder: str, method: str = "orderdp") -> tuple[float, PruningSampler]:
    """Return the accuracy on the training data, and the sampler."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    data = IndexedDataset([{"x": x[i], "labels": y[i]} for i in range(len(y))])
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    sampler = PruningSampler(method, n=len(data), epochs=EPOCHS, batch_size=64, keep=0.5)
    arguments = TrainingArguments(
        folder,
        num_train_epochs=EPOCHS,
        learning_rate=0.01,
        save_strategy="no",
        remove_unused_columns=False,
        use_cpu=True,
    )
    trainer = PruningTrainer(model, arguments, train_dataset=data)
    trainer.sampler = sampler
    trainer.train()
    return float((model(x).argmax(1) == y).float().mean()), sampler
