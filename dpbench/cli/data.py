"""`dpbench data`: images packed into one file, and datasets read through for what is broken."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpbench.cli import complete
from dpbench.cli.options import DataRoot, check_writable
from dpbench.cli.terminal import out, size
from dpbench.errors import RunFailed, UsageError

data = typer.Typer(no_args_is_help=True, help="Pack the images of a folder, or check a dataset.")


@data.command()
def pack(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with one folder of images for each class.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The pack to write, as train.pack.")],
    side: Annotated[
        int | None, typer.Option("--side", min=4, max=4096, help="Shrink larger images to this short side, as JPEGs.")
    ] = None,
) -> None:
    """Write the images of a folder as one indexed file, which is read much faster from slow disks.

    The images are the files' own bytes, unless `--side` shrinks them.

    - `dpbench data pack imagenet/train imagenet/train.pack --side 256`
    - `dpbench run quick --dataset folder:pictures.pack`
    """
    from dpbench import folders
    from dpbench import pack as packs

    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    apart = folders.parts(folder)
    if apart:
        raise UsageError(
            f"{folder} has {apart[0].name} and {apart[1].name}, which are packed one by one; name {apart[0]}"
        )
    check_writable("FILE", file)
    files, labels, classes = folders.listed(folder)
    packs.write(file, files, labels, classes, side)
    out.print(f"{file}: {len(files):,} images of {len(classes):,} classes, {size(file.stat().st_size)}", markup=False)


@data.command()
def check(
    name: Annotated[
        str, typer.Argument(help="A dataset: name, name:PATH, name[key=value,...].", autocompletion=complete.dataset)
    ],
    data_root: DataRoot = None,
    workers: Annotated[int, typer.Option("--workers", min=0, max=256, help="Processes that read ahead.")] = 0,
) -> None:
    """Read every sample once and name what is broken; the exit code is 1 if something is.

    - `dpbench data check folder:pictures --workers 4`
    """
    from dpbench import catalog

    dataset = catalog.load_dataset(name)
    try:
        parts = dict(zip(("training", "test"), dataset.sources(data_root), strict=True))
    except UsageError as error:
        raise RunFailed(*error.args) from error
    count = 0
    for part, samples in parts.items():
        for row, fault in samples.broken(workers):
            out.print(f"{part} sample {row}: {fault}", markup=False, soft_wrap=True)
            count += 1
    n = sum(map(len, parts.values()))
    if count:
        raise RunFailed(f"{name}: {count:,} of {n:,} samples cannot be read")
    shares = ", ".join(f"{len(samples):,} {part} samples" for part, samples in parts.items())
    out.print(f"{name}: {shares}, all can be read", markup=False, soft_wrap=True)
