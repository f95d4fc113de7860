"""CIFAR-10 (Krizhevsky 2009): 60,000 colour images of 32 x 32, 10 classes, in the python batches."""

from pathlib import Path

from torchvision.datasets import CIFAR10 as Torchvisions

from dpbench import cifar
from dpbench.data import Dataset, param
from dpbench.images import Images


class CIFAR10(Dataset):
    """45,000 training, 5,000 validation and the 10,000 official test images.

    The files are those that torchvision.datasets.CIFAR10(DIR, download=True) makes; name DIR by --data-root. Their
    checksums are compared with the official ones, unless `checked=false`.
    """

    checked: bool = param(True)

    def read(self, root: Path | None) -> tuple[Images, Images]:
        return cifar.read(root, Torchvisions, b"labels", self.checked)
