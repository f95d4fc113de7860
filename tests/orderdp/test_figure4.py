"""Figure 4's statement: a known effect is found, none is not, and cells that are the same are left out."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dpbench import store
from dpbench.errors import UsageError
from dpbench.experiments import grid as grids
from dpbench.orderdp import figure4
from dpbench.spec import Grid

EXPLORES = (0.3, 0.5, 0.7, 0.9)


def runs(effect: float, keep: float = 0.3, seeds: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    of_seed = rng.normal(90, 3, seeds)  # seeds differ far more than decompositions
    lines = [
        {
            "dataset": "d",
            "model": "m",
            "keep": keep,
            "seed": seed,
            "explore": explore,
            "step": 0.1,
            "accuracy": of_seed[seed] + effect * explore + rng.normal(0, 0.1),
        }
        for seed in range(seeds)
        for explore in EXPLORES
    ]
    return pd.DataFrame(lines).assign(time_total_s=1.0, jaccard_epochs=0.5, gradient_cosine=0.9)


def test_an_effect_is_found_and_none_is_not():
    (with_uniform, without) = figure4.statements(runs(effect=1.0), np.random.default_rng(0))
    assert with_uniform.p < 0.01
    assert "matters" in with_uniform.text
    assert (with_uniform.decompositions, without.decompositions) == (4, 3)
    assert with_uniform.ends == pytest.approx(0.6, abs=0.2)
    found = figure4.statements(runs(effect=0.0), np.random.default_rng(0))
    assert all(one.p > 0.05 and "not shown to matter" in one.text for one in found)


def test_p_is_uniform_without_effect():
    rng = np.random.default_rng(1)
    p = [figure4.permutation_p(rng.normal(size=(5, 4)), rng, 199) for _ in range(300)]
    assert stats.kstest(p, "uniform").pvalue > 0.001
    assert figure4.permutation_p(np.ones((5, 4)), rng, 99) == 1.0
    assert figure4.friedman_p(np.ones((5, 4))) == 1.0


def result(method: str, keep: float, explore: float) -> dict:
    metrics = {"accuracy": 0.9, "time_total_s": 1.0, "jaccard_epochs": 0.5, "gradient_cosine": 0.9}
    spec = {"dataset": "d", "model": "m", "method": method, "keep": keep, "seed": 0}
    given = {"hyperparameters": {"explore": explore}, "samples": {"test": 450}}
    return {"status": "FINISHED", "spec": spec, "metrics": metrics} | given


def test_only_different_decompositions_are_compared():
    results = [
        result("orderdp", 0.3, 0.8),
        result("orderdp[explore=0.3]", 0.3, 0.3),
        result("orderdp[explore=0.2]", 0.3, 0.2),  # the same as 0.3
        result("orderdp[explore=0.5,score=entropy]", 0.3, 0.5),
        result("uniform", 0.3, 0.0),
    ]
    assert figure4.frame(results)["explore"].tolist() == [0.8, 0.3]
    with pytest.raises(UsageError, match="no finished runs of orderdp"):
        figure4.statements(figure4.frame([]), np.random.default_rng(0))


def test_a_decomposition_with_diverged_seeds_is_left_out():
    results = [result("orderdp[explore=0.5]", 0.3, 0.5), result("orderdp[explore=0.9]", 0.3, 0.9)]
    other = result("orderdp[explore=0.9]", 0.3, 0.9)
    other |= {"status": "DIVERGED", "spec": other["spec"] | {"seed": 1}, "metrics": {}}
    assert figure4.frame([*results, other])["explore"].tolist() == [0.5]


def test_the_page_names_its_grid_and_how_much_of_it_was_run(home, tmp_path):
    explores = ("explore=0.2", "explore=0.5", "explore=0.7", "explore=0.9")  # the first lies below both keeps
    methods = [f"orderdp[{one}]" for one in explores]
    recipe = {"epochs": 1, "batch_size": 8, "lr": 0.1}
    grid = Grid(
        name="mine", datasets=["digits"], models=["mlp"], methods=methods, keep=[0.3, 0.6], seeds=4, recipe=recipe
    )
    cells = {spec.hash: spec for spec in grid.runs()}
    grids.write_manifest(grid, cells)
    for i, (key, spec) in enumerate(cells.items()):
        if spec.seed < 3 or i % 2:  # the last seed is half done
            explore = float(spec.method[len("orderdp[explore=") : -1])
            content = result(spec.method, spec.keep, explore) | {"spec": spec.model_dump(), "hash": key}
            content |= {"started": 0.0, "environment": {}}
            content["metrics"]["prune_ratio"] = 1 - spec.keep
            store.write_json(store.run_folder(key) / "result.json", content)
    (one,) = {one.keep for one in figure4.write("mine", tmp_path / "to")}
    assert one == 0.3  # at 0.6 two decompositions are left, too few
    page = (tmp_path / "to" / "README.md").read_text().replace("\n", " ")
    assert "`dpbench run mine` and `dpbench figure4 mine`, from 28 of its 32 runs" in page
    assert "over 3 decompositions with s > q and 3 seeds" in page


def test_the_figure_has_its_four_panels():
    assert len(figure4.figure(runs(0.5)).axes) == 4
