"""Content hashes, canonical names, and what a wrong grid file is told."""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from torch.nn import Linear

from dpbench import catalog, optim
from dpbench.errors import UsageError
from dpbench.grid_file import change_grid, load_grid, read_grid
from dpbench.recipe import Recipe, recipe_names
from dpbench.spec import Grid, RunSpec, canonical, identity_hash, source_digests

Spec = Callable[..., RunSpec]
GRID = """\
datasets: [digits]
models: [cnn]
methods: [full, orderdp]
keep: [0.3, 0.5]
seeds: 2
recipe:
  epochs: 3
  batch_size: 32
  lr: 0.05
"""


def read(text: str) -> Grid:
    return read_grid(text, "my.yaml", "my")


# the hash


def test_equal_runs_hash_alike(spec: Spec) -> None:
    assert spec("orderdp[explore=0.8]").hash == spec("orderdp").hash
    assert spec("orderdp[ema=0.5,explore=0.9]").hash == spec("orderdp[explore=0.9,ema=0.50]").hash
    assert re.fullmatch("[0-9a-f]{16}", spec().hash)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "uniform"},
        {"method": "orderdp[explore=0.9]"},
        {"dataset": "digits"},
        {"model": "mlp"},
        {"keep": 0.3},
        {"seed": 1},
        {"lr": 0.2},
        {"epochs": 5},
        {"label_smoothing": 0.1},
        {"budget": {"unit": "steps"}},
        {"probe": {"every": 0}},
        {"data": "0123456789abcdef"},
    ],
    ids=str,
)
def test_every_difference_changes_the_hash(spec: Spec, change: dict[str, Any]) -> None:
    assert spec(**({"method": "orderdp"} | change)).hash != spec("orderdp").hash


@pytest.fixture
def digests(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Digests of sources, as `kind/name`, that stand for those of other code."""
    changed: dict[str, str] = {}
    digest = catalog.source_digest
    monkeypatch.setattr(
        catalog, "source_digest", lambda kind, name: changed.get(f"{kind}/{name}") or digest(kind, name)
    )
    monkeypatch.setattr("dpbench.spec.source_digests", source_digests.__wrapped__)
    return changed


@pytest.mark.parametrize("changed", ["methods/orderdp", "datasets/synthetic", "models/mlp"])
def test_sources_are_in_the_hash(spec: Spec, digests: dict[str, str], changed: str) -> None:
    before = spec("orderdp").hash
    digests["methods/uniform"] = "x"
    assert spec("orderdp").hash == before
    digests[changed] = "x"
    assert spec("orderdp").hash != before


def test_the_protocol_is_in_the_hash(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    before = spec().hash
    monkeypatch.setattr("dpbench.spec.PROTOCOL", 0)
    assert spec().hash != before


def test_the_source_of_a_used_method_is_in_the_hash(spec: Spec, digests: dict[str, str]) -> None:
    before = [spec(f"score[by={name}]").hash for name in ("el2n", "aum")]
    digests["methods/el2n"] = "x"
    after = [spec(f"score[by={name}]").hash for name in ("el2n", "aum")]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_the_hash_is_that_of_an_identity_that_survives_json(spec: Spec) -> None:
    wanted = spec("score[by=el2n]", keep=1, budget={"unit": "time", "seconds": 3})
    read_again = json.loads(json.dumps(wanted.identity))
    assert identity_hash(read_again) == wanted.hash
    assert read_again == wanted.identity
    assert RunSpec.model_validate(read_again["spec"]) == wanted
    assert set(read_again["sources"]) == {"datasets/synthetic", "models/mlp", "methods/score", "methods/el2n"}


def test_cells_of_a_grid_name_their_data() -> None:
    runs = read(GRID.replace("[digits]", "[digits, synthetic]")).runs({"digits": "abc"})
    assert {(run.dataset, run.data) for run in runs} == {("digits", "abc"), ("synthetic", "")}


def test_the_hash_is_the_same_in_another_process(spec: Spec) -> None:
    found = spec("orderdp")
    code = f"from dpbench.spec import RunSpec; print(RunSpec.model_validate({found.model_dump()!r}).hash)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == found.hash, done.stderr


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.01, float("nan")])
def test_keep_outside_its_range(spec: Spec, keep: float) -> None:
    with pytest.raises(ValidationError):
        spec(keep=keep)


# canonical names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orderdp", "orderdp"),
        ("orderdp[explore=0.8,score=loss]", "orderdp"),
        ("orderdp[ema=0.5,explore=1]", "orderdp[explore=1.0,ema=0.5]"),
        (" infobatch[ r = null ]", "infobatch"),
        ("infobatch[r=0.5]", "infobatch[r=0.5]"),
        ("uniform_epoch[replace=no]", "uniform_epoch[replace=false]"),
        ("orderdp[explore=1e-1]", "orderdp[explore=0.1]"),
    ],
)
def test_canonical(text: str, expected: str) -> None:
    assert canonical(text) == expected
    assert canonical(expected) == expected


# grids


def test_built_in_grids() -> None:
    quick = load_grid("quick")
    eight = ["full", "full_short", "uniform", "uniform_epoch", "orderdp", "infobatch", "el2n", "selective_backprop"]
    assert set(eight) <= set(quick.methods)
    assert (quick.datasets, quick.models, quick.keep, quick.seeds) == (["digits"], ["cnn"], [0.3, 0.5], 5)
    assert len(quick.runs()) == 5 * (1 + 2 * (len(quick.methods) - 1)), "full is one row whatever the keeps"
    for name in catalog.names("grids"):
        assert load_grid(name).runs()


def test_no_grid_varies_the_keep_of_a_method_that_it_fixes() -> None:
    """What is None by default follows from keep; given, it is the same run at every keep."""
    for name in catalog.names("grids"):
        grid = load_grid(name)
        fixed = [
            text
            for text in map(canonical, grid.methods)
            for field in fields(catalog.load_method(text))  # type: ignore[arg-type]
            if field.default is None and field.name in catalog.parse(text)[1]
        ]
        assert len(grid.keep) == 1 or not fixed, name


@pytest.mark.parametrize(("name", "epochs"), [("paper_rs2", 10), ("paper_deepcore", 40)])
def test_proxies_of_a_papers_grid_are_trained_as_long_as_it_says(name: str, epochs: int) -> None:
    proxies = [catalog.load_method(text).requires().proxy for text in load_grid(name).methods]
    assert {one.epochs for one in proxies if one is not None} == {epochs}


def test_runs_come_seed_by_seed_in_canonical_names() -> None:
    runs = read(GRID.replace("orderdp", "'orderdp[explore=0.8]', uniform")).runs()
    assert [run.seed for run in runs] == [0] * 5 + [1] * 5
    assert [(run.method, run.keep) for run in runs[:5]] == [
        ("full", 1.0), ("orderdp", 0.3), ("orderdp", 0.5), ("uniform", 0.3), ("uniform", 0.5)
    ]  # fmt: skip


def test_a_file_is_a_grid(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GRID)
    assert load_grid(str(tmp_path / "mine.yaml")).name == "mine"
    with pytest.raises(UsageError, match=r"no file .*nowhere\.yaml"):
        load_grid(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(UsageError, match="unknown grid 'quik'; did you mean quick"):
        load_grid("quik")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: 2", "seeds: 2\nsedes: 2", "my.yaml:6: unknown key sedes; did you mean seeds?"),
        ("seeds: 2", "seeds: 2\nzzz: 1", "my.yaml:6: unknown key zzz; allowed: description, datasets, models, methods"),
        ("  lr: 0.05", "  lr: 0.05\n  shedule: cosine", "my.yaml:10: unknown key recipe.shedule; did you mean sch"),
        ("  lr: 0.05\n", "", "my.yaml:6: recipe.lr is missing"),
        ("seeds: 2\n", "", "my.yaml:1: seeds is missing"),
        ("0.5]", "1.5]", "my.yaml:4: keep.1: input should be less than or equal to 1, not 1.5"),
        ("[0.3", "[0", "my.yaml:4: keep.0: input should be greater than 0, not 0"),
        ("[0.3, 0.5]", "0.3", "my.yaml:4: keep: input should be a valid list, not 0.3"),
        ("0.5]", "0.3]", "my.yaml:4: keep: 0.3 is given twice"),
        ("seeds: 2", "seeds: none", "my.yaml:5: seeds: input should be a valid integer"),
        ("lr: 0.05", "lr: .inf", "my.yaml:9: recipe.lr: input should be a finite number, not inf"),
        ("lr: 0.05", "lr: 0.05\n  schedule: flat",
         "my.yaml:10: recipe.schedule: input should be 'onecycle', 'cosine', 'linear' or 'step', not 'flat'"),
        ("lr: 0.05", "lr: 0.05\n  momentum: 0", "my.yaml:6: recipe: nesterov needs a momentum above 0"),
        ("lr: 0.05", "lr: 0.05\n  augment: crop", "my.yaml:6: recipe: augment and pad go together"),
        ("seeds: 2", "seeds: 2\nbudget: {unit: time}", "my.yaml:6: budget: seconds goes with unit: time"),
        ("seeds: 2", "seeds: 2\nname: ../up", "my.yaml:6: name: '../up' cannot name a grid: letters, digits"),
        ("seeds: 2", "seeds: 2\nname: " + "x" * 121, "my.yaml:6: name: 'xxx"),
        ("seeds: 2", "seeds: [", "my.yaml:7: not YAML: "),
        ("seeds: 2", "seeds: 2\nseeds: 3", "my.yaml:6: the key 'seeds' is given twice"),
        ("seeds: 2", "seeds: true", "my.yaml:5: seeds: true does not fit here"),
        ("[0.3, 0.5]", "[0.3, true]", "my.yaml:4: keep: true does not fit here"),
        ("seeds: 2", "seeds: 1_000_000", "my.yaml:1: 1 datasets x 1 models x 2 methods x 2 keeps x 1000000 seeds are "
         "4,000,000 cells; a grid has at most 100,000"),
        ("seeds: 2", f"seeds: 1{'0' * 5000}", "my.yaml:5: '10000"),
        ("seeds: 2", f"seeds: 0x{'f' * 99}", "my.yaml:5: '0xfff"),
        ("seeds: 2", "seeds: 0x_", "my.yaml:5: '0x_' cannot be read as a number"),
        ("seeds: 2", f"seeds: {'[' * 5000}", "my.yaml:5: lists and mappings are nested more than 20 deep"),
        ("seeds: 2", "seeds: 2\ntuned: {? [a] : 1}", "my.yaml:6: a key is a word, no list and no mapping"),
        ("seeds: 2", "seeds: 2\ntuned: {orderdp: {a: 1}}", "my.yaml:6: tuned.0.trials: input should be a valid int"),
        ("seeds: 2", "seeds: 2\ntuned: {1: 1}", "my.yaml:6: tuned.0.method: input should be a valid string, not 1"),
        ("seeds: 2", "seeds: 2\n1: 1", "my.yaml:6: 1: keys should be strings"),
        ("seeds: 2", "seeds: 2\ndescription: &a x", "my.yaml:6: anchors and aliases (& and *) are not read"),
        ("seeds: 2", "seeds: 2\n<<: {delta: 1}", "my.yaml:6: unknown key <<; allowed: "),
        ("batch_size: 32", "batch_size: 99999999999999999999", "my.yaml:8: recipe.batch_size: input should be less"),
    ],
)  # fmt: skip
def test_a_wrong_grid_is_told_file_line_key_and_what_is_allowed(old: str, new: str, message: str) -> None:
    assert old in GRID
    with pytest.raises(UsageError) as caught:
        read(GRID.replace(old, new))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_every_mistake_has_its_line() -> None:
    with pytest.raises(UsageError) as caught:
        read(GRID.replace("seeds", "sedes").replace("lr: 0.05", "lr: fast"))
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["my.yaml:1", "my.yaml:9", "my.yaml:5"]


def test_of_many_mistakes_ten_are_told() -> None:
    with pytest.raises(UsageError) as caught:
        read(GRID.replace("[0.3, 0.5]", str([2 + i for i in range(5000)])))
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "my.yaml: and 4990 more faults"


def test_a_long_list_is_checked_at_once() -> None:
    with pytest.raises(UsageError, match=r"keep: 1\.0 is given twice") as caught:
        read(GRID.replace("[0.3, 0.5]", str([1] * 30_000)))
    assert len(str(caught.value)) < 500


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghijklmnopqrs"))


@pytest.mark.parametrize("text", [BOMB, BOMB + "methods: *s\n" + GRID, "&a [*a]", "{<<: &x {a: *x}}"])
def test_aliases_are_not_expanded(text: str) -> None:
    with pytest.raises(UsageError, match=r"^my\.yaml:1: anchors and aliases"):
        read(text)


@pytest.mark.parametrize("stem", ["a b", ".x", "-x", "x" * 121, "\u00e9" * 61, ""])
def test_a_file_whose_name_cannot_name_a_grid(stem: str) -> None:
    with pytest.raises(UsageError, match=r"^my\.yaml:1: name: .* cannot name a grid"):
        read_grid(GRID, "my.yaml", stem)
    assert read_grid(GRID + "name: mine", "my.yaml", stem).name == "mine"


def test_the_most_that_is_taken() -> None:
    assert len(read(GRID + f"name: {'x' * 120}").name) == 120
    assert read(GRID.replace("seeds: 2", "seeds: 25_000")).seeds == 25_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe" + GRID.encode("utf-16-le"), "byte 1 is not UTF-8"),
        (GRID.encode() + b"name: caf\xe9", "byte 142 is not UTF-8"),
        (b"x" * 100_001, "has 100,001 bytes; at most 100,000 are read"),
        (GRID.encode() + b"name: \x00", "not YAML: unacceptable character #x0000"),
        (None, "is not a file"),
    ],
)
def test_files_that_are_not_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_grid(str(file))
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["\0.yaml", "x" * 300 + ".yaml", "\n", "", "x" * 5000])
def test_names_that_are_no_grid(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_grid(name)
    assert len(str(caught.value).splitlines()) == 1


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbf" + GRID.encode())
    assert load_grid(str(tmp_path / "mine.yaml")).seeds == 2


@pytest.mark.parametrize("text", ["", "3", "[a, b]"])
def test_a_grid_is_a_mapping(text: str) -> None:
    with pytest.raises(UsageError, match=r"my\.yaml: a grid is a mapping of description, datasets"):
        read(text)


def test_yaml_makes_no_objects() -> None:
    with pytest.raises(UsageError, match="tags"):
        read("name: !!python/object/apply:os.system ['true']")


def test_a_recipe_by_name_and_with_a_value_changed(tmp_path: Path) -> None:
    text = "datasets: [digits]\nmodels: [cnn]\nmethods: [full]\nkeep: [0.5]\nseeds: 1\nrecipe: {recipe}\n"
    named = read_grid(text.replace("{recipe}", "orderdp_cifar"), "g.yaml", "g").recipe
    assert (named.epochs, named.lr, named.momentum, named.nesterov, named.pad) == (200, 0.05, (0.85, 0.95), False, 4)
    changed = read_grid(text.replace("{recipe}", "{use: orderdp_cifar, epochs: 30}"), "g.yaml", "g").recipe
    assert changed == named.model_copy(update={"epochs": 30})
    with pytest.raises(UsageError, match=r"^g.yaml:6: recipe: there is no recipe 'nope'; known: ccs_cifar, "):
        read_grid(text.replace("{recipe}", "nope"), "g.yaml", "g")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_one_and_can_be_made(name: str) -> None:
    text = f"datasets: [digits]\nmodels: [cnn]\nmethods: [full]\nkeep: [0.5]\nseeds: 1\nrecipe: {name}\n"
    recipe = read_grid(text, "g.yaml", "g").recipe
    assert optim.optimizer(Linear(1, 1), recipe).param_groups[0]["lr"] == recipe.lr


BY = """
datasets: [digits, "synthetic[n=100]"]
models: [cnn, mlp]
methods: [full]
keep: [0.5]
seeds: 1
recipe: {use: orderdp_cifar, pct_start: 0.2}
recipe_by_dataset: {synthetic: {epochs: 7, lr: 0.3}}
recipe_by_model: {mlp: {lr: 0.01, optimizer: adamw, schedule: cosine, augment: none}}
"""


def test_a_recipe_may_be_changed_by_dataset_and_model() -> None:
    grid = read_grid(BY, "g.yaml", "g")
    found = {(spec.dataset, spec.model): spec.recipe for spec in grid.runs()}
    base = grid.recipe
    assert found["digits", "cnn"] == base
    assert found["synthetic[n=100]", "cnn"] == base.model_copy(update={"epochs": 7, "lr": 0.3})
    mlp = found["synthetic[n=100]", "mlp"]
    assert (mlp.epochs, mlp.lr, mlp.optimizer, mlp.schedule) == (7, 0.01, "adamw", "cosine")
    assert (mlp.momentum, mlp.nesterov, mlp.pct_start, mlp.pad) == ((0.9, 0.9), False, 0.3, 0), "of the new choices"
    assert (mlp.label_smoothing, mlp.weight_decay) == (base.label_smoothing, base.weight_decay)
    again = change_grid(grid, {"models": ["cnn"]})
    assert {(spec.dataset, spec.model): spec.recipe for spec in again.runs()}.items() <= found.items()


def test_changing_a_precision_that_was_a_flag() -> None:
    base = Recipe(epochs=1, batch_size=1, lr=1, precision="bf16")
    assert base.changed({"precision": "fp16"}).precision == "fp16"
    assert base.changed({"lr": 2}).precision == "bf16"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mlp: {lr: 0.01", "mlp: {lr: 0", "recipe_by_model.mlp: lr: Input should be greater than 0"),
        ("mlp: {lr: 0.01", "mlp: {rate: 0.01", "recipe_by_model.mlp: rate: Extra inputs are not permitted"),
        ("mlp: {lr: 0.01", "mlp: {warmup: 2", "recipe_by_model.mlp: warmup: Input should be less than 1"),
        (
            "{epochs: 7,",
            "{schedule: step, div: 3,",
            "recipe_by_dataset.synthetic: div is for the schedule onecycle, no",
        ),
        (
            "recipe_by_model: {mlp",
            "recipe_by_model: {vit",
            "recipe_by_model names 'vit', which is not in the grid: cnn, mlp",
        ),
    ],
)
def test_a_wrong_change_of_a_recipe_is_told(old: str, new: str, message: str) -> None:
    assert old in BY
    with pytest.raises(UsageError, match=re.escape(message)):
        read_grid(BY.replace(old, new), "g.yaml", "g")


@pytest.mark.parametrize("seeds", [3, 7, 21])
def test_seeds_at_which_no_verdict_is_read_are_refused(seeds: int) -> None:
    planned = GRID.replace("seeds: 2", f"seeds: {seeds}\nlooks: [5, 10, 20]")
    message = f"g.yaml: verdicts are read at 5, 10, 20 seeds only (looks); seeds: {seeds} is none of them"
    with pytest.raises(UsageError, match=re.escape(message)):
        read_grid(planned, "g.yaml", "g")
    assert read_grid(planned.replace(f"seeds: {seeds}", "seeds: 10"), "g.yaml", "g").looks == [5, 10, 20]
