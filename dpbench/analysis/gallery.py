"""Pictures of the samples that each row used most and least, and of suspected wrong labels: for the page and as PNG.

What is shown of a sample depends on the kind of its dataset: images so far. It is made in one place, `_thumbnail`, and
shown on the page in one, the function `picture` of page/gallery.js.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel, ConfigDict, Field

from dpbench import catalog, store
from dpbench.analysis import usage
from dpbench.analysis.overlap import Overlap
from dpbench.analysis.usage import Suspicion, Usage
from dpbench.errors import RunFailed, UsageError
from dpbench.spec import Row, RunSpec
from dpbench.training.results import Count, Number, RunResult, is_finished

if TYPE_CHECKING:
    from torch import Tensor

    from dpbench.analysis.board import Board
    from dpbench.data import Data

EACH = 8  # samples of a class that are shown of the most used, and of the least used
ROW = 160  # samples that are shown of a row, where it has many classes
SUSPECTS = 32  # samples of a dataset whose label is suspected
SIDE = 32  # pixels; larger images are made smaller
MOST_LINES = 40  # classes in the picture of a row
ACROSS = 64  # tiles in a line of the sheet
ROOM = 4_000_000  # bytes on the page for all pictures and rows, so that a thousand rows stay far below 10 MB
ENTRY = 20  # bytes of one sample of a row, about

Shown = tuple[Count, Number, Number | None]  # tile, times used, score: None where it is infinite, or there is none


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sheet(_Part):
    """The shown samples of a dataset: each is a tile of one PNG image, `across` in a line; the lists are by tile.

    `sample` is the place in the dataset's own training set; `wrong`, whether the label was made wrong, if known.
    """

    kind: Literal["images"] = "images"
    height: Count
    width: Count
    across: Count
    png: str = Field(pattern=r"^[A-Za-z0-9+/]*=*$")
    sample: list[Count]
    label: list[Count]
    name: list[str]
    wrong: list[bool] | None
    classes: list[str]


class Picked(_Part):
    """The samples that a row used most and least, by class; times are epochs, means over the seeds."""

    row: tuple[str, str, str, float]
    seeds: Count
    epochs: Number
    mean: Number  # times that a sample was used
    never: Number  # shares of the samples that no seed used, and that all used in every epoch
    always: Number
    scored: bool
    per_class: list[Number | None]  # mean times that a sample of the class was used
    most: list[list[Shown]]
    least: list[list[Shown]]


class Suspected(_Part):
    """The samples of a dataset whose label is suspected, first the most, with their mean standing at `methods`.

    Where labels were made wrong on purpose, `found` of these `injected` are among as many first suspects.
    """

    dataset: str
    model: str
    methods: list[str]
    samples: list[tuple[Count, Number]]
    injected: Count | None = None
    found: Count | None = None


class Gallery(_Part):
    """All pictures of a board; `note` tells what is missing and why, rows in `even` used all samples equally often.

    In `unread` are the datasets that have selections here, and whose data could not be had.
    """

    sheets: dict[str, Sheet] = {}
    rows: list[Picked] = []
    suspected: list[Suspected] = []
    even: list[tuple[str, str, str, float]] = []
    unread: list[str] = []
    note: str = ""


def make(results: Iterable[RunResult], root: Path | None, room: int = ROOM) -> Gallery:
    """Gather the pictures of all rows whose runs' selections are in this home, and whose data can be loaded."""
    from dpbench.training import loading

    datasets: dict[str, list[RunResult]] = {}
    for result in results:
        if is_finished(result):
            datasets.setdefault(result["spec"]["dataset"], []).append(result)
    sheets: dict[str, Sheet] = {}
    rows: list[Picked] = []
    suspected: list[Suspected] = []
    even: list[Row] = []
    notes: list[str] = []
    unread: list[str] = []
    for dataset, runs in datasets.items():
        try:
            data = loading.data_of(RunSpec.model_validate(runs[0]["spec"]), root) if _pictured(dataset) else None
        except (UsageError, RunFailed) as error:
            notes.append(f"No pictures of {dataset}: {store.brief(str(error))}")
            if any((store.run_folder(run["hash"]) / "selections.npz").is_file() for run in runs):
                unread.append(dataset)
            continue
        if data is None or data.train.picture(0) is None:
            notes.append(f"No pictures of {dataset}: its samples are no images.")
            continue
        drawn = _Drawn(data, room // len(datasets))
        suspicion, shown, left_out = Suspicion(), 0, 0
        for found in usage.of_results(runs):
            suspicion.add(found)
            if found.even:
                even.append(found.row)
            elif drawn.full:
                left_out += 1
            else:
                rows.append(drawn.pick(found))
                shown += 1
        suspected += drawn.suspects(suspicion)
        if drawn.tiles:
            sheets[dataset] = drawn.sheet()
        if left_out:
            notes.append(f"{dataset}: the first {shown} rows are shown; {left_out} more would be too much for a page.")
    if not rows and not notes:
        notes = ["No run in this home has its selections."]
    return Gallery(sheets=sheets, rows=rows, suspected=suspected, even=even, unread=unread, note=" ".join(notes))


def _pictured(dataset: str) -> bool:
    """Whether the samples are images, which is known before they are read; True for a dataset that is not here."""
    try:
        return catalog.load_dataset(dataset).kind == "images"
    except UsageError:
        return True


class _Drawn:
    """The tiles of a dataset, as they are asked for."""

    def __init__(self, data: Data, room: int) -> None:
        self.data, self.room = data, room
        self.labels = data.train.labels.numpy()
        self.each = max(1, min(EACH, ROW // 2 // data.classes))
        self.tiles: dict[int, int] = {}  # row among the training samples -> tile
        self.images: list[NDArray[np.uint8]] = []

    @property
    def full(self) -> bool:
        """Whether the room is used up."""
        return self.room <= 0

    def tile(self, index: int) -> int:
        """The tile of a training sample, which is drawn if it is new."""
        if index not in self.tiles:
            self.tiles[index] = len(self.tiles)
            picture = self.data.train.picture(index)
            assert picture is not None
            self.images.append(_thumbnail(picture))
            self.room -= self.images[-1].size * 4 // 3
        return self.tiles[index]

    def pick(self, found: Usage) -> Picked:
        """What is shown of a row."""

        def shown(indices: list[int]) -> list[Shown]:
            self.room -= ENTRY * len(indices)
            return [(self.tile(i), round(float(found.times[i]), 2), _score(found, i)) for i in indices]

        strips = usage.extremes(found, self.labels, self.each)
        totals = np.bincount(self.labels, found.times, self.data.classes)
        sizes = np.bincount(self.labels, minlength=self.data.classes)
        return Picked(
            row=found.row,
            seeds=found.seeds,
            epochs=found.epochs,
            mean=round(float(found.times.mean()), 2),
            never=round(float((found.times == 0).mean()), 4),
            always=round(float((found.times == found.epochs).mean()), 4),
            scored=found.scores is not None,
            per_class=[round(float(a / b), 2) if b else None for a, b in zip(totals, sizes, strict=True)],
            most=[shown(most) for most, _ in strips],
            least=[shown(least) for _, least in strips],
        )

    def suspects(self, suspicion: Suspicion) -> list[Suspected]:
        """The first suspects of each model."""
        found, noisy = [], self.data.noisy
        for (dataset, model), suspects in suspicion.result().items():
            first = suspects.order[:SUSPECTS].tolist()
            known = {} if noisy is None else {"injected": int(noisy.sum()), "found": suspects.found(noisy.numpy())}
            samples = [(self.tile(i), round(float(suspects.standing[i]), 4)) for i in first]
            found.append(Suspected(dataset=dataset, model=model, methods=suspects.methods, samples=samples, **known))
        return found

    def sheet(self) -> Sheet:
        """All tiles as one image."""
        height, width = self.images[0].shape[:2]
        lines = -(-len(self.images) // ACROSS)
        whole = np.zeros((lines * ACROSS, *self.images[0].shape), np.uint8)
        whole[: len(self.images)] = self.images
        whole = whole.reshape(lines, ACROSS, *whole.shape[1:]).swapaxes(1, 2)
        stream = io.BytesIO()
        picture = whole.reshape(lines * height, ACROSS * width, -1)
        Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).save(stream, "PNG", optimize=True)
        indices, names, noisy = list(self.tiles), usage.file_names(self.data), self.data.noisy
        return Sheet(
            height=height,
            width=width,
            across=ACROSS,
            png=base64.b64encode(stream.getvalue()).decode(),
            sample=self.data.positions[indices].tolist(),
            label=self.labels[indices].tolist(),
            name=[names[i] for i in indices],
            wrong=None if noisy is None else noisy[indices].tolist(),
            classes=usage.class_names(self.data),
        )


def _score(found: Usage, index: int) -> float | None:
    score = None if found.scores is None else float(found.scores[index])
    return float(f"{score:.3g}") if score is not None and np.isfinite(score) else None


def _thumbnail(image: Tensor) -> NDArray[np.uint8]:
    """(c, h, w) as (height, width, 1 or 3), at most SIDE pixels high and wide; 3 channels are colours."""
    shown = image if len(image) == 3 else image[:1]
    shrink = max(1.0, max(shown.shape[1:]) / SIDE)
    if shrink > 1:
        import torch.nn.functional as F

        size = [max(1, round(side / shrink)) for side in shown.shape[1:]]
        shown = F.interpolate(shown[None].float(), size=size, mode="area")[0].round().byte()
    return np.ascontiguousarray(shown.permute(1, 2, 0).numpy())


# The page


def data(board: Board) -> dict[str, Any]:
    """What the page's part on samples shows."""
    return {
        "gallery": board.gallery.model_dump(mode="json"),
        "alike": _alike(board.overlap),
    }


def _alike(overlap: Overlap) -> list[dict[str, Any]]:
    """How alike two methods choose, by dataset, model and keep: upper triangles of both matrices, in thousandths."""
    groups = []
    for (dataset, model, keep), part in overlap.methods.groupby(["dataset", "model", "keep"], sort=False):
        names = list(dict.fromkeys([*part["method"], *part["other"]]))
        place = {name: i for i, name in enumerate(names)}
        matrices = np.full((2, len(names), len(names)), np.nan)
        for values in part[["method", "other", "jaccard", "chance"]].itertuples(index=False):
            i, j = sorted((place[values.method], place[values.other]))
            matrices[:, i, j] = values.jaccard, values.chance
        upper = 1000 * matrices[:, *np.triu_indices(len(names), 1)]
        jaccard, chance = [[round(x) if np.isfinite(x) else None for x in line] for line in upper]
        where = {"dataset": dataset, "model": model, "keep": keep, "methods": names}
        groups.append(where | {"jaccard": jaccard, "chance": chance})
    return groups


# A picture of one row, or of one run


def sheet(board: Board, row: Row, file: Path) -> bool:
    """Draw a row's most and least used samples, a line a class, to a PNG file; False where there is nothing to draw."""
    gallery = board.gallery
    picked = next((picked for picked in gallery.rows if picked.row == row), None)
    if picked is not None:
        text = f"below each: in how many of {picked.epochs:g} epochs it was used, mean of {picked.seeds} seeds"
        _paint(picked, gallery.sheets[row[0]], text, file)
    return picked is not None


def sheet_of_run(result: RunResult, root: Path | None, file: Path) -> bool:
    """The same of one run; UsageError or RunFailed where its data cannot be had."""
    from dpbench.training import loading

    if not _pictured(result["spec"]["dataset"]):
        return False
    found = next(usage.of_results([result]), None)
    if found is None or found.even:
        return False
    data = loading.data_of(found.spec, root)
    if data.train.picture(0) is None:
        return False
    drawn = _Drawn(data, ROOM)
    picked = drawn.pick(found)
    text = f"below each: in how many of {picked.epochs:g} epochs it was used, seed {found.spec.seed}"
    _paint(picked, drawn.sheet(), text, file)
    return True


def _paint(picked: Picked, tiles: Sheet, text: str, file: Path) -> None:
    row, lines = picked.row, list(zip(picked.most, picked.least, strict=True))[:MOST_LINES]
    text += f"; the first {MOST_LINES} of {len(picked.most)} classes" if len(picked.most) > MOST_LINES else ""
    source = Image.open(io.BytesIO(base64.b64decode(tiles.png)))
    scale = max(1, round(40 / tiles.height))
    step, high, left, top = tiles.width * scale + 6, tiles.height * scale + 20, 150, 74
    across = max(1, max(len(strip) for strip in (*picked.most, *picked.least)))
    gap = left + across * step + 24
    image = Image.new("RGB", (gap + across * step + 12, top + high * len(lines) + 8), "white")
    draw, small = ImageDraw.Draw(image), ImageFont.load_default(11)
    draw.text((12, 10), f"{row[2]} at keep {row[3]:g}, {row[0]}, {row[1]}", "black", ImageFont.load_default(17))
    draw.text((12, 34), text, "#555", small)
    for x, title in ((left, "used most"), (gap, "used least")):
        draw.text((x, 54), title, "black", ImageFont.load_default(13))
    for label, strips in enumerate(lines):
        y = top + high * label
        mean = picked.per_class[label]
        draw.text((12, y + 4), (tiles.classes[label] or f"class {label}")[:22], "black", ImageFont.load_default(13))
        draw.text((12, y + 22), "no samples" if mean is None else f"mean {mean:.1f}", "#555", small)
        for x, strip in zip((left, gap), strips, strict=True):
            for i, (tile, times, _) in enumerate(strip):
                down, right = divmod(tile, tiles.across)
                box = (right * tiles.width, down * tiles.height, (right + 1) * tiles.width, (down + 1) * tiles.height)
                cut = source.crop(box).resize((tiles.width * scale, tiles.height * scale), Image.Resampling.NEAREST)
                image.paste(cut.convert("RGB"), (x + i * step, y))
                draw.text((x + i * step, y + tiles.height * scale + 2), f"{times:g}", "#555", small)
    store.write(file, lambda path: image.save(path, "PNG", optimize=True))
