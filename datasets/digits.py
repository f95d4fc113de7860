"""Handwritten digits of the UCI repository, embedded in scikit-learn: 1,797 grey images of 8 x 8, 10 classes."""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from dpbench.data import Dataset
from dpbench.images import Images


class Digits(Dataset):
    """1,212 training, 135 validation and 450 test images; the test part is stratified by class."""

    def read(self, root: Path | None) -> tuple[Images, Images]:
        digits = load_digits()
        images = torch.from_numpy(digits.images * 15.9375).round().to(torch.uint8)[:, None]  # 0..16 to 0..255
        samples = Images(images, torch.from_numpy(digits.target).long())
        rows = torch.arange(len(samples))
        train, test = train_test_split(rows, test_size=450, random_state=0, stratify=digits.target)
        return samples.at(train), samples.at(test)
