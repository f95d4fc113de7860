"""The schedules against torch's and the closed form, and the optimizer's step against its formula."""

import math
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from dpbench.lars import LARS
from dpbench.optim import OPTIMIZERS, SCHEDULES, Step, optimizer, schedule, set_step
from dpbench.recipe import BELONGS, Recipe


def recipe(**changes: object) -> Recipe:
    return Recipe(**({"epochs": 1, "batch_size": 1, "lr": 0.2} | changes))  # type: ignore[arg-type]


def torchs(steps: int, **options: float) -> list[tuple[float, float]]:
    """Learning rate and momentum of torch's OneCycleLR at each step."""
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    cycle = torch.optim.lr_scheduler.OneCycleLR(sgd, max_lr=0.2, total_steps=steps, **options)  # type: ignore[arg-type]
    found = []
    for step in range(steps):
        found.append((sgd.param_groups[0]["lr"], sgd.param_groups[0]["momentum"]))
        sgd.step()
        if step + 1 < steps:
            cycle.step()
    return found


@pytest.mark.parametrize("steps", [10, 57, 1000])
@pytest.mark.parametrize("momentum", [None, (0.7, 0.9)])
def test_onecycle_is_torchs_step_by_step(steps: int, momentum: tuple[float, float] | None) -> None:
    """Torch turns at step 0.3 T - 1 and ends at step T - 1: its step is ours at the progress of the step's end."""
    ours = recipe() if momentum is None else recipe(momentum=momentum)
    options = {} if momentum is None else {"base_momentum": momentum[0], "max_momentum": momentum[1]}
    turn = 0.3 * steps - 1
    for step, expected in enumerate(torchs(steps, **options)):
        progress = 0.3 * step / turn if step <= turn else (step + 1) / steps
        assert schedule(ours, progress) == pytest.approx(expected, rel=1e-9), step


def test_onecycle_as_the_runner_steps_it_is_torchs_to_one_step() -> None:
    steps = 2000
    for step, (rate, momentum) in enumerate(torchs(steps)):
        found = schedule(recipe(), step / steps)
        assert found.learning_rate == pytest.approx(rate, abs=0.2 * 6 / steps), step
        assert found.momentum == pytest.approx(momentum, abs=0.1 * 6 / steps), step


def test_onecycle_at_its_turning_points() -> None:
    rates, momenta = zip(*(schedule(recipe(), progress) for progress in (0, 0.3, 0.65, 1)), strict=True)
    assert rates == pytest.approx((0.2 / 25, 0.2, (0.2 + 0.2 / 250_000) / 2, 0.2 / 250_000))
    assert momenta == pytest.approx((0.95, 0.85, 0.9, 0.95))


@pytest.mark.parametrize("name", ["onecycle", "cosine"])
def test_one_momentum_is_constant(name: str) -> None:
    constant = recipe(schedule=name, momentum=0.8)
    assert {schedule(constant, progress).momentum for progress in (0, 0.2, 0.3, 0.9, 1)} == {0.8}
    assert recipe(schedule="cosine").momentum == (0.9, 0.9)


def test_a_scale_is_of_the_rate_only() -> None:
    one, scaled = schedule(recipe(), 0.4), schedule(recipe(), 0.4, scale=3.0)
    assert scaled.learning_rate == 3 * one.learning_rate
    assert scaled.momentum == one.momentum


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": [0.9, 0.8]}, "one number or a range"),
        ({"schedule": "cosine", "momentum": [0.8, 0.9]}, "a range is for onecycle"),
        ({"momentum": 0}, "nesterov needs a momentum above 0"),
        ({"momentum": [0.9, 1.0]}, "less than 1"),
        ({"momentum": "high"}, "valid tuple"),
    ],
)
def test_a_wrong_momentum_is_told(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**changes)


@pytest.mark.parametrize("progress", [0, 0.1, 1 / 3, 0.5, 0.99, 1])
def test_cosine_is_the_closed_form(progress: float) -> None:
    expected = 0.2 * (1 + math.cos(math.pi * progress)) / 2
    assert schedule(recipe(schedule="cosine"), progress).learning_rate == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("name", ["onecycle", "cosine"])
def test_beyond_the_end_the_rate_stays(name: str) -> None:
    last = recipe(schedule=name)
    assert schedule(last, 1.1) == pytest.approx(schedule(last, 1.0), abs=1e-12)


@pytest.mark.parametrize("nesterov", [True, False])
def test_steps_are_those_of_the_formula(nesterov: bool) -> None:
    model = nn.Linear(2, 1, bias=False)
    sgd = optimizer(model, recipe(momentum=0.9, nesterov=nesterov, weight_decay=0.01))
    weight, velocity = model.weight.detach().clone().double(), torch.zeros(1, 2, dtype=torch.float64)
    for step in range(1, 4):
        model.weight.grad = torch.full((1, 2), float(step))
        sgd.step()
        gradient = step + 0.01 * weight
        velocity = 0.9 * velocity + gradient
        weight = weight - 0.2 * (gradient + 0.9 * velocity if nesterov else velocity)
    torch.testing.assert_close(model.weight.double(), weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [57, 1000])
def test_onecycle_with_other_options_is_torchs(steps: int) -> None:
    ours, turn = recipe(pct_start=0.2, div=10, final_div=100), 0.2 * steps - 1
    for step, expected in enumerate(torchs(steps, pct_start=0.2, div_factor=10, final_div_factor=100)):
        progress = 0.2 * step / turn if step <= turn else (step + 1) / steps
        assert schedule(ours, progress) == pytest.approx(expected, rel=1e-9), step


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schedule": "cosine", "lr_min": 0.1}, [0.2, 0.15, 0.1]),
        ({"schedule": "linear", "lr_min": 0.1}, [0.2, 0.15, 0.1]),
        ({"schedule": "linear", "warmup": 0.5}, [0.0, 0.2, 0.0]),
        ({"schedule": "cosine", "warmup": 0.25}, [0.0, 0.15, 0.0]),
        ({"schedule": "step", "steps": [0.5, 0.9]}, [0.2, 0.02, 0.002]),
    ],
)
def test_the_other_schedules_at_their_ends_and_in_the_middle(changes: dict[str, object], expected: list[float]) -> None:
    rates = [schedule(recipe(**changes), progress).learning_rate for progress in (0, 0.5, 1)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "cosine", "div": 10}, "div is for the schedule onecycle, not for cosine"),
        ({"warmup": 0.1}, "warmup is for the schedule cosine or linear or step, not for onecycle"),
        ({"optimizer": "adamw", "nesterov": True}, "nesterov is for the optimizer sgd, not for adamw"),
        ({"beta2": 0.9}, "beta2 is for the optimizer adamw or lamb, not for sgd"),
        ({"schedule": "step", "steps": [0.5, 0.5]}, "each later than the one before"),
        ({"schedule": "cosine", "lr_min": 1.0}, "lr_min is above lr"),
    ],
)
def test_an_impossible_mixture_is_told(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**changes)


W = torch.tensor([[3.0, -4.0], [0.5, 1.0]])
G = torch.tensor([[0.3, 0.1], [-0.2, 0.4]])


def stepped(name: str, steps: int = 1, **changes: object) -> Tensor:
    """A weight after steps along one gradient, at rate 0.1 and momentum 0.9."""
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = W.clone()
    made = optimizer(layer, recipe(optimizer=name, weight_decay=0.01, **changes))
    for _ in range(steps):
        set_step(made, Step(0.1, 0.9))
        layer.weight.grad = G.clone()
        made.step()
    return layer.weight.detach()


def test_lars_of_infobatch_by_hand() -> None:
    trust = 1e-3 * W.norm() / (G.norm() + 0.01 * W.norm())
    first = W - 0.1 * trust * (G + 0.01 * W)
    torch.testing.assert_close(stepped("lars_infobatch"), first)
    again = 1e-3 * first.norm() / (G.norm() + 0.01 * first.norm())
    buffer = 0.9 * (G + 0.01 * W) + G + 0.01 * first
    torch.testing.assert_close(stepped("lars_infobatch", 2), first - 0.1 * again * buffer)


def test_lars_of_infobatch_at_its_limits() -> None:
    for weight, grad, step in ((0.0, 2.0, 0.2), (1e6, 1e-3, 50 * 0.1 * 1e-3), (1.0, 1e3, 1e-6 * 0.1 * 10)):
        parameter = nn.Parameter(torch.full((1, 1), weight, dtype=torch.float64))
        parameter.grad = torch.full((1, 1), grad, dtype=torch.float64)
        LARS([{"params": [parameter]}], lr=0.1, momentum=0.9).step()
        assert weight - parameter.item() == pytest.approx(step), "a zero norm, the largest trust, the clipped gradient"


def test_adamw_by_hand() -> None:
    mean, square = 0.1 * G / (1 - 0.9), 0.001 * G.square() / (1 - 0.999)
    expected = W * (1 - 0.1 * 0.01) - 0.1 * mean / (square.sqrt() + 1e-8)
    torch.testing.assert_close(stepped("adamw"), expected)


@pytest.mark.parametrize("name", ["lars", "lamb", "muon"])
def test_timms_optimizers_are_timms(name: str) -> None:
    from timm.optim import create_optimizer_v2

    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data, layer.weight.grad = W.clone(), G.clone()
    betas = {"betas": (0.9, 0.999)} if name == "lamb" else {}
    create_optimizer_v2(
        layer, opt=name, lr=0.1, weight_decay=0.01, momentum=0.9, filter_bias_and_bn=False, **betas
    ).step()
    torch.testing.assert_close(stepped(name), layer.weight.detach())


def test_the_momentum_of_adam_is_its_first_beta() -> None:
    made = optimizer(nn.Linear(2, 2), recipe(optimizer="adamw"))
    set_step(made, Step(0.3, 0.8))
    assert [(group["lr"], group["betas"]) for group in made.param_groups] == [(0.3, (0.8, 0.999))]


def test_norms_and_biases_may_be_left_undecayed() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    groups = optimizer(model, recipe(decay_norms=False)).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 5e-4), (3, 0.0)]
    assert len(optimizer(model, recipe()).param_groups) == 1


def test_an_optimizer_that_there_is_not_is_told() -> None:
    with pytest.raises(ValidationError, match="unknown optimizer 'adam'; known: sgd, adamw, lars, "):
        recipe(optimizer="adam")
    assert {name for names in BELONGS["optimizer"].values() for name in names} <= OPTIMIZERS.keys()
    assert get_args(Recipe.model_fields["schedule"].annotation) == tuple(SCHEDULES)


def test_runs_from_before_a_field_keep_their_names() -> None:
    first = {"epochs", "batch_size", "lr", "momentum", "nesterov", "weight_decay", "schedule", "label_smoothing"}
    first |= {"augment", "pad", "amp", "channels_last", "compile"}
    assert recipe().model_dump().keys() == first
    assert recipe(optimizer="adamw", clip=1.0).model_dump().keys() == first | {"optimizer", "clip"}
    assert Recipe.model_validate(recipe(div=10).model_dump()) == recipe(div=10)


def test_onecycle_cycles_the_first_beta_of_adamw_as_torchs_does() -> None:
    ours, theirs = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    theirs.load_state_dict(ours.state_dict())
    mine = optimizer(ours, recipe(optimizer="adamw", weight_decay=0.01))
    reference = torch.optim.AdamW(theirs.parameters(), lr=1.0, weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(reference, max_lr=0.2, total_steps=10)
    for step in range(3):
        rate, beta = reference.param_groups[0]["lr"], reference.param_groups[0]["betas"][0]
        set_step(mine, Step(rate, beta))
        for model in (ours, theirs):
            model.weight.grad = torch.full((1, 2), step - 0.5)
        mine.step()
        reference.step()
        cycle.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
