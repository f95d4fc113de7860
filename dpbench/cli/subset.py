"""`dpbench subset`: what a static method chooses, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from dpbench.cli import complete
from dpbench.cli.options import DataRoot, check_writable
from dpbench.cli.terminal import out
from dpbench.errors import UsageError, check_keep
from dpbench.processes import single_threaded


def subset(
    method: Annotated[
        str,
        typer.Argument(
            help="A static method: name, name[key=value,...], file.py or file.py:Class.",
            autocompletion=complete.method,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npz file to write.")],
    dataset: Annotated[
        str, typer.Option("--dataset", help="The dataset to choose from.", autocompletion=complete.dataset)
    ] = "digits",
    keep: Annotated[float, typer.Option("--keep", help="Share of the samples kept, in (0, 1].")] = 0.3,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Choose as the runs of this seed do.")] = 0,
    model: Annotated[
        str | None, typer.Option("--model", help="Instead of the grid's first.", autocompletion=complete.model)
    ] = None,
    grid: Annotated[
        str, typer.Option("--grid", help="The grid whose recipe is used.", autocompletion=complete.grid)
    ] = "quick",
    data_root: DataRoot = None,
) -> None:
    """Write the subset that a static method chooses: indices, scores, weights, configuration and hash in one .npz file.

    `indices` count the samples that dpbench trains on; `positions[indices]` those of the dataset's own training set, in
    its own order. Train on it by `dpbench run --from FILE`.

    - `dpbench subset el2n --dataset fashion_mnist --grid fashion_mnist --keep 0.3 -o el2n.npz`
    """
    from dpbench import catalog
    from dpbench.experiments import subsets
    from dpbench.grid_file import load_grid
    from dpbench.spec import RunSpec, canonical
    from dpbench.training import loading, runner

    check_keep(keep, f"--keep {keep:g}")
    if output.suffix != ".npz":
        raise UsageError(f"--output {output}: the name ends in .npz")
    check_writable("--output", output)
    single_threaded(1)
    base, dataset = load_grid(grid), catalog.resolve("datasets", dataset)
    model = catalog.resolve("models", model) if model else catalog.fitting(base.models, [dataset])[0]
    method = canonical(method)
    spec = RunSpec(
        dataset=dataset,
        model=model,
        method=method,
        keep=keep,
        seed=seed,
        recipe=base.recipe_of(dataset, model, method),
        probe=base.probe,
        data=loading.fingerprints([dataset], data_root)[dataset],
    )
    found = subsets.choose(spec, runner.default_device(), data_root)
    found.write(output)
    fixed = catalog.load_method(spec.method).requires().fixed_keep
    if fixed is not None and fixed != keep:
        out.print(
            escape(f"{spec.method} keeps its own share of the samples, {fixed:g}; --keep is not used"), soft_wrap=True
        )
    out.print(f"{len(found.epochs[0]):,} of {found.n:,} samples, hash {found.digest}: {output}", soft_wrap=True)
