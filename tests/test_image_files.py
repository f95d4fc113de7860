"""Images on disk against the same pixels in memory."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from dpbench.errors import RunFailed
from dpbench.image_files import FileLoader, FolderFiles, ImageFiles, decode
from dpbench.images import ImageLoader, Images

CPU = torch.device("cpu")
N, SIDE = 11, 8
PIXELS = torch.randint(256, (N, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
LABELS = torch.arange(N) % 3
PARTS = torch.randperm(N, generator=torch.Generator().manual_seed(1)).split(4)


@pytest.fixture
def source(tmp_path: Path) -> ImageFiles:
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    return ImageFiles(FolderFiles(tmp_path, [f"{i}.png" for i in range(N)]), LABELS, SIDE)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("how", "pad"), [("none", 0), ("crop_flip", 2)])
def test_batches_equal_those_in_memory_bit_for_bit(source: ImageFiles, workers: int, how: str, pad: int) -> None:
    memory = ImageLoader(Images(PIXELS, LABELS), PIXELS, CPU, how, pad)
    disk = FileLoader(source, source.sampled, CPU, how, pad, workers=workers)
    state = torch.get_rng_state()
    for loader in (memory, disk):
        loader.start_epoch(torch.Generator().manual_seed(3))
    for augment in (True, False):
        for mine, theirs in zip(memory.batches(PARTS, augment), disk.batches(PARTS, augment), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    inputs, labels = disk.batch(torch.tensor([4, 1]), augment=False)
    assert torch.equal(inputs, memory.batch(torch.tensor([4, 1]), augment=False)[0])
    assert labels.tolist() == [1, 1]
    assert torch.equal(state, torch.get_rng_state()), "reading draws nothing from the training's generator"


def test_other_shapes_and_modes_are_brought_to_one(tmp_path: Path) -> None:
    grey = Image.fromarray(torch.arange(12 * 24).remainder(256).view(12, 24).to(torch.uint8).numpy())
    grey.save(tmp_path / "grey.png")
    content = (tmp_path / "grey.png").read_bytes()
    image = decode(content, "grey.png", 12)
    assert image.shape == (3, 12, 12)
    assert torch.equal(image[0], image[2]), "grey in three channels"
    assert image[0, 0].tolist() == list(range(6, 18)), "the middle of the long side"
    assert decode(content, "grey.png", 6).shape == (3, 6, 6)


def test_rows_and_pictures(source: ImageFiles) -> None:
    some = source.at(torch.tensor([7, 2]))
    assert some.labels.tolist() == [1, 2]
    assert torch.equal(some.picture(0), PIXELS[7])
    assert source.faults("training") == []
    wrong = ImageFiles(source.files.at(torch.arange(N - 1)), LABELS, SIDE)
    assert wrong.faults("training") == ["10 training images have 11 labels"]


def test_the_fingerprint_covers_names_sizes_and_times(source: ImageFiles) -> None:
    before = source.fingerprint
    assert before == ImageFiles(source.files, LABELS, SIDE).fingerprint
    assert before != ImageFiles(source.files, LABELS.flip(0), SIDE).fingerprint
    assert before != ImageFiles(source.files, LABELS, SIDE + 1).fingerprint
    root = Path(source.files.name(0)).parent
    (root / "3.png").write_bytes((root / "4.png").read_bytes())
    assert before != source.fingerprint


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_what_cannot_be_read_is_named(source: ImageFiles, content: bytes | None) -> None:
    file = Path(source.files.name(5))
    file.write_bytes(file.read_bytes()[:60] if content is None else content)
    with pytest.raises(RunFailed, match=r"5\.png: not an image that can be read: "):
        source.picture(5)
    for workers in (0, 2):
        assert [row for row, _ in source.broken(workers)] == [5]
        loader = FileLoader(source, PIXELS, CPU, workers=workers)
        with pytest.raises(RunFailed, match=r"^[^\n]*5\.png: not an image that can be read: [^\n]*$"):
            list(loader.batches([torch.arange(3), torch.arange(3, 7), torch.arange(7, 11)]))


def test_images_that_fit_come_into_memory(source: ImageFiles) -> None:
    assert source.room == N * 3 * SIDE**2
    assert torch.equal(source.decoded().images, PIXELS)
    assert list(source.broken()) == []
