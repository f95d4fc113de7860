"""OrderDP's theorems as experiments: all of them run, with a page that says what held.

Each experiment returns plain numbers, and a figure drawn from these alone; every number on the page comes from the
same run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from dpbench import store
from dpbench.orderdp import convergence, generalisation, staleness, two_forms, unbiased
from dpbench.orderdp.page import page
from dpbench.orderdp.problem import Effort, Numbers
from dpbench.training.results import RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FULL = Effort()
QUICK = Effort(draws=4_000, steps=3_000, seeds=2, splits=3, largest=10_000)

STUDIES: dict[str, tuple[Callable[[Effort], Numbers], Callable[[Axes, Numbers], None]]] = {
    "theorem_1": (unbiased.theorem_1, unbiased.draw_theorem_1),
    "proposition_2": (unbiased.proposition_2, unbiased.draw_proposition_2),
    "theorem_3": (convergence.theorem_3, convergence.draw_theorem_3),
    "theorem_4": (generalisation.theorem_4, generalisation.draw_theorem_4),
    "network": (convergence.network, convergence.draw_network),
    "momentum": (convergence.momentum, convergence.draw_momentum),
    "noise": (convergence.noise, convergence.draw_noise),
    "staleness": (staleness.staleness, staleness.draw_staleness),
    "stale_momentum": (staleness.stale_momentum, staleness.draw_stale_momentum),
}


def run(
    folder: Path,
    effort: Effort,
    told: Callable[[str], None] = lambda name: None,
    results: Collection[RunResult] = (),
) -> Numbers:
    """Do every study; write theory.json, a figure for each, and the page README.md. Return the numbers.

    `results` are those of the grid that compares OrderDP's two forms, if it was run.
    """
    numbers, drawings = {}, {}
    for name, (study, draw) in STUDIES.items():
        told(name)
        with threadpool_limits(1):  # small matrices: threads only wait for each other
            numbers[name] = study(effort)
        drawings[name] = figure(draw, numbers[name])
    if compared := two_forms.compare(results):
        numbers["forms"] = compared
        drawings["forms"] = figure(two_forms.draw, compared)
    for name, drawing in drawings.items():
        store.write(folder / f"{name}.png", lambda file: drawing.savefig(file, format="png", dpi=120))  # noqa: B023
    store.write_json(folder / "theory.json", {"effort": vars(effort)} | numbers)
    store.write(folder / "README.md", lambda file: file.write_text(page(numbers)))
    return numbers


def figure(draw: Callable[[Axes, Numbers], None], found: Numbers) -> Figure:
    """One study's figure."""
    import seaborn as sns
    from matplotlib.figure import Figure

    with sns.axes_style("whitegrid"), sns.color_palette("deep"):
        drawing = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = drawing.subplots()
        draw(axes, found)
    axes.legend(fontsize="small")
    sns.despine(ax=axes)
    return drawing
