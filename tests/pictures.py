"""Files of pictures for several tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(folder: Path, count: int, height: int, width: int, suffix: str) -> None:
    """Write `count` pictures of noise into each of the folders ant and bee."""
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / name / f"{i}{suffix}")
