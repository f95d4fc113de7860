"""Pictures of one's own: a folder for each class, as torchvision's ImageFolder has them, or a pack of such a folder."""

from pathlib import Path

from dpbench import folders
from dpbench.data import Dataset, UsageError, param
from dpbench.image_files import ImageFiles


class Folder(Dataset):
    """The pictures of `path`/train/CLASS and `path`/val/CLASS (or test), or of `path`/CLASS.

    `path` may be a pack that `dpbench data pack` wrote, or hold train.pack and val.pack. Pictures are brought to `side`
    x `side` pixels. Without pictures to test with the share `test` of each class is held out.
    """

    path: str = param("")
    side: int = param(32, low=4, high=4096)
    test: float = param(0.2, low=0.01, high=0.9)
    kind = "images"

    def read(self, root: Path | None) -> tuple[ImageFiles, ImageFiles]:
        if not self.path:
            raise UsageError("folder: which? folder:PATH, a folder with one folder of pictures for each class")
        place = (root or Path()) / self.path
        if not place.exists():
            raise UsageError(f"folder: there is no folder {place}")
        apart = folders.parts(place)
        if apart is None:
            return folders.halves(place, self.side, self.test)
        train, test, _ = folders.pair(*apart, self.side)
        return train, test
