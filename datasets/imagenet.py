"""ImageNet-1K (Russakovsky et al. 2015): 1,281,167 training and 50,000 test pictures, 1,000 classes, as JPEG files."""

import re
from pathlib import Path

from dpbench import folders
from dpbench.data import Dataset, UsageError, param
from dpbench.image_files import ImageFiles

HOW = (
    'get the two archives at image-net.org, let torchvision.datasets.ImageNet(DIR, "train") and (DIR, "val") unpack '
    "them, and name DIR by --data-root"
)


class ImageNet(Dataset):
    """The official validation pictures are the test samples; 10,000 training pictures are held out for validation.

    --data-root, else the folder data/imagenet, has the folders train and val with one folder for each WordNet id, as
    torchvision.datasets.ImageNet makes them, or the packs train.pack and val.pack (`dpbench data pack`). A part of the
    classes will do. Pictures are brought to `side` x `side` pixels.
    """

    side: int = param(224, low=4, high=4096)
    validation = 10_000 / 1_281_167
    kind = "images"

    def read(self, root: Path | None) -> tuple[ImageFiles, ImageFiles]:
        folder = root or Path("data/imagenet")
        apart = folders.parts(folder)
        if apart is None:
            raise UsageError(f"imagenet: there are no train and val, folders or packs, in {folder}: {HOW}")
        train, test, classes = folders.pair(*apart, self.side)
        strange = [name for name in classes if not re.fullmatch(r"n\d{8}", name)]
        if strange:
            raise UsageError(f"imagenet: {apart[0]}: the class {strange[0]} is no WordNet id, as n01440764 is")
        return train, test
