"""OrderDP in Lightning: the sampler in the data loader, and one line in the training step."""

import lightning
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from dpbench import PruningSampler

EPOCHS = 8


class Classifier(lightning.LightningModule):
    """A perceptron on digits."""

    def __init__(self, sampler: PruningSampler) -> None:
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        self.sampler = sampler
        self.backward_samples = 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The weighted mean loss, observed by the method."""
        x, y = batch
        self.backward_samples += len(x)
        losses = F.cross_entropy(self.model(x), y, reduction="none")
        return self.sampler.reduce(losses, self.sampler.batch(batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class PruningState(lightning.Callback):
    """Keep the method's state in Lightning's checkpoints."""

    def on_save_checkpoint(self, trainer: lightning.Trainer, module: Classifier, checkpoint: dict) -> None:
        """Called by Lightning."""
        checkpoint["pruning"] = module.sampler.state_dict()

    def on_load_checkpoint(self, trainer: lightning.Trainer, module: Classifier, checkpoint: dict) -> None:
        """Called by Lightning."""
        module.sampler.load_state_dict(checkpoint["pruning"])


def train(folder: str, method: str = "orderdp") -> tuple[float, int]:
    """Return the accuracy on the training data and the number of samples sent backward."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    module = Classifier(PruningSampler(method, n=len(data), epochs=EPOCHS, batch_size=64, keep=0.5))
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_epochs=EPOCHS, default_root_dir=folder, callbacks=[PruningState()], **options)
    trainer.fit(module, DataLoader(data, batch_sampler=module.sampler))
    accuracy = (module.model(data.tensors[0]).argmax(1) == data.tensors[1]).float().mean()
    return float(accuracy), module.backward_samples
